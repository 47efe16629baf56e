// expect: sagemem: SAGEMEM_WITH_POOL must be 0 or 1
#define SAGEMEM_WITH_POOL 2
#include "sagemem.h"
