// expect: sagemem: SAGEMEM_WITH_MAP must be 0 or 1
#define SAGEMEM_WITH_MAP 2
#include "sagemem.h"
