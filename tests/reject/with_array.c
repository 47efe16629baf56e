// expect: sagemem: SAGEMEM_WITH_ARRAY must be 0 or 1
#define SAGEMEM_WITH_ARRAY 2
#include "sagemem.h"
