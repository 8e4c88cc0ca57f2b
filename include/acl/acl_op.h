/* Single-operator calls of the acl layer are not part of this library; the header is here to be included. */
#ifndef MOE_ACL_OP_H
#define MOE_ACL_OP_H

#include "acl/acl_base.h"

#endif
