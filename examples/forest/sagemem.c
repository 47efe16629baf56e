/* The one file that holds the library's implementation. */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
