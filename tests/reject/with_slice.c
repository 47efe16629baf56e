// expect: sagemem: SAGEMEM_WITH_SLICE must be 0 or 1
#define SAGEMEM_WITH_SLICE 2
#include "sagemem.h"
