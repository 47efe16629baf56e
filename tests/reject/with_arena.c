// expect: sagemem: SAGEMEM_WITH_ARENA must be 0 or 1
#define SAGEMEM_WITH_ARENA 2
#include "sagemem.h"
