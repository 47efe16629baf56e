// expect: sagemem: SAGEMEM_WITH_REPORT must be 0 or 1
#define SAGEMEM_WITH_REPORT 2
#include "sagemem.h"
