// Compiled code of a model, in memory.
#pragma once

#include "model.hpp"

namespace sparsec::native {

// The module of a shared object's bytes.
ffi::Object load_library(Model::Piece library);
// A virtual machine of a module.
ffi::Object new_machine(const ffi::Object &library);
// A function of the machine with its last arguments bound.
ffi::Object bind_constants(const ffi::Object &machine, const std::string &entry, const std::string &name,
                           const std::vector<ffi::Object> &constants);

}  // namespace sparsec::native
