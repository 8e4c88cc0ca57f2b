/* The graph engine has status codes of its own; this library has no graph engine, and the header is here to be
 * included. */
#ifndef MOE_ACL_GE_ERROR_CODES_H
#define MOE_ACL_GE_ERROR_CODES_H

#endif
