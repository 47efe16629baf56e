// expect: sagemem: system headers were included in strict mode before the implementation; include sagemem.h first, or compile with -std=gnu11 or -D_DEFAULT_SOURCE
// flags: -std=c11
// follow-up errors: allowed
#include <stdlib.h>

#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
