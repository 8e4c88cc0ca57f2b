/* Model execution is not part of this library; the header is here to be included. */
#ifndef MOE_ACL_MDL_H
#define MOE_ACL_MDL_H

#include "acl/acl_base.h"

#endif
