// expect: sagemem: SAGEMEM_STATIC needs SAGEMEM_IMPLEMENTATION in the same file
#define SAGEMEM_STATIC
#include "sagemem.h"
