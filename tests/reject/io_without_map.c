// expect: sagemem: SAGEMEM_WITH_IO needs SAGEMEM_WITH_MAP 1 (readers map files)
#define SAGEMEM_WITH_MAP 0
#include "sagemem.h"
