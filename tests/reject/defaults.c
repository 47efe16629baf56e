// expect: sagemem: SAGEMEM_DEFAULTS must be 0 or 1
#define SAGEMEM_DEFAULTS 2
#include "sagemem.h"
