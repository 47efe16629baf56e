// expect: sagemem: this compiler is not supported yet; use gcc or clang (on Windows: MinGW-w64 or clang)
// flags: -U__GNUC__ -U__clang__
// follow-up errors: allowed
#include "sagemem.h"
