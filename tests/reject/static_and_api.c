// expect: sagemem: define SAGEMEM_STATIC or SAGEMEM_API, not both
#define SAGEMEM_IMPLEMENTATION
#define SAGEMEM_STATIC
#define SAGEMEM_API static
#include "sagemem.h"
