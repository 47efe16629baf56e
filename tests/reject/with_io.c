// expect: sagemem: SAGEMEM_WITH_IO must be 0 or 1
#define SAGEMEM_WITH_IO 2
#include "sagemem.h"
