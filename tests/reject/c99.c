// expect: sagemem: the implementation needs C11 or C++11; compile this file with -std=gnu11 or later
// flags: -std=gnu99
// follow-up errors: allowed
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
