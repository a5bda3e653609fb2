// The version of this library, which is sparsec's.
#pragma once

#define SPARSEC_VERSION "0.2.0"
