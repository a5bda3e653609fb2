#include "ffi.hpp"

#include "error.hpp"

namespace sparsec::native::ffi {

namespace {

// The contents of an object behind its header.
template <typename Cell>
const Cell &cell(TVMFFIObjectHandle handle) {
  return *reinterpret_cast<const Cell *>(static_cast<const char *>(handle) + sizeof(TVMFFIObject));
}

[[noreturn]] void raise_last() {
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised == nullptr) fail(SPARSEC_ERROR_INTERNAL, "TVM's runtime failed without a reason");
  Object error(raised);
  const TVMFFIErrorCell &about = cell<TVMFFIErrorCell>(error.get());
  const std::string kind(about.kind.data, about.kind.size), message(about.message.data, about.message.size);
  // the kernel that checks indices raises an IndexError
  fail(kind == "IndexError" ? SPARSEC_ERROR_INPUT : SPARSEC_ERROR_INTERNAL, message);
}

void check(int code) {
  if (code != 0) raise_last();
}

struct Managed {
  DLManagedTensor tensor{};
  std::vector<std::int64_t> shape;
  std::shared_ptr<const void> owner;
};

void release(DLManagedTensor *tensor) { delete static_cast<Managed *>(tensor->manager_ctx); }

}  // namespace

TVMFFIAny Object::any() const {
  TVMFFIAny value{};
  if (handle_ != nullptr) {
    value.v_obj = static_cast<TVMFFIObject *>(handle_);
    value.type_index = value.v_obj->type_index;
  }
  return value;
}

TVMFFIAny integer(std::int64_t number) {
  TVMFFIAny value{};
  value.type_index = kTVMFFIInt;
  value.v_int64 = number;
  return value;
}

TVMFFIAny text(const char *characters) {
  TVMFFIAny value{};
  value.type_index = kTVMFFIRawStr;
  value.v_c_str = characters;
  return value;
}

Object call(const Object &function, const std::vector<TVMFFIAny> &arguments) {
  TVMFFIAny result{};
  check(TVMFFIFunctionCall(function.get(), const_cast<TVMFFIAny *>(arguments.data()),
                           static_cast<std::int32_t>(arguments.size()), &result));
  return result.type_index >= kTVMFFIStaticObjectBegin ? Object(result.v_obj) : Object();
}

Object global(const char *name) {
  const std::string text(name);
  const TVMFFIByteArray bytes{text.data(), text.size()};
  TVMFFIObjectHandle found = nullptr;
  check(TVMFFIFunctionGetGlobal(&bytes, &found));
  if (found == nullptr) fail(SPARSEC_ERROR_MACHINE, "TVM's runtime library lacks " + text + "; take the bundle's own");
  return Object(found);
}

Object function_of(const Object &module, const char *name) {
  static const Object get = global("ffi.ModuleGetFunction");
  TVMFFIAny deep{};
  deep.type_index = kTVMFFIBool;
  Object found = call(get, {module.any(), text(name), deep});
  if (!found) fail(SPARSEC_ERROR_MODEL, std::string("the model's library lacks ") + name + "; bundle the model again");
  return found;
}

DLDataType carrier(std::int32_t type) {
  switch (type) {
    case SPARSEC_FLOAT32: return {kDLFloat, 32, 1};
    case SPARSEC_FLOAT64: return {kDLFloat, 64, 1};
    case SPARSEC_FLOAT16: return {kDLFloat, 16, 1};
    case SPARSEC_BOOL: return {kDLBool, 8, 1};
    case SPARSEC_INT8: return {kDLInt, 8, 1};
    case SPARSEC_INT16: return {kDLInt, 16, 1};
    case SPARSEC_INT32: return {kDLInt, 32, 1};
    case SPARSEC_INT64: return {kDLInt, 64, 1};
    case SPARSEC_UINT8: return {kDLUInt, 8, 1};
    case SPARSEC_UINT16:
    case SPARSEC_BFLOAT16: return {kDLUInt, 16, 1};
    case SPARSEC_UINT32: return {kDLUInt, 32, 1};
    case SPARSEC_UINT64: return {kDLUInt, 64, 1};
    default: fail(SPARSEC_ERROR_MODEL, "the model has an element type that there is not; bundle it again");
  }
}

Object tensor(void *data, std::int32_t type, const std::vector<std::int64_t> &shape, std::shared_ptr<const void> owner) {
  auto managed = std::make_unique<Managed>();
  managed->shape = shape;
  managed->owner = std::move(owner);
  managed->tensor.dl_tensor = {data, {kDLCPU, 0}, static_cast<std::int32_t>(shape.size()), carrier(type),
                               managed->shape.data(), nullptr, 0};
  managed->tensor.manager_ctx = managed.get();
  managed->tensor.deleter = release;
  TVMFFIObjectHandle made = nullptr;
  check(TVMFFITensorFromDLPack(&managed->tensor, 0, 1, &made));
  managed.release();
  return Object(made);
}

const DLTensor &view(const Object &tensor) { return cell<DLTensor>(tensor.get()); }

void *address(const Object &tensor) {
  const DLTensor &found = view(tensor);
  return static_cast<char *>(found.data) + found.byte_offset;
}

std::vector<Object> tensors_of(const Object &array) {
  const TVMFFIAny value = array.any();
  if (value.type_index != kTVMFFIArray) fail(SPARSEC_ERROR_INTERNAL, "a program's result is no tuple");
  const TVMFFISeqCell &elements = cell<TVMFFISeqCell>(array.get());
  std::vector<Object> found;
  found.reserve(static_cast<std::size_t>(elements.size));
  for (std::int64_t index = 0; index < elements.size; ++index) {
    const TVMFFIAny &each = static_cast<const TVMFFIAny *>(elements.data)[index];
    if (each.type_index != kTVMFFITensor) fail(SPARSEC_ERROR_INTERNAL, "an output of a program is no tensor");
    TVMFFIObjectIncRef(each.v_obj);
    found.emplace_back(each.v_obj);
  }
  return found;
}

}  // namespace sparsec::native::ffi
