// drive MODEL CALLS ANSWERS: runs a model on the calls of a file and writes every output.
// A call is the number of its inputs and, of each, a type, a rank, the shape and the bytes; or the type -1 and the
// number of an output of the call before, which is handed back as it is. All numbers are 64-bit integers.
#include <sparsec.hpp>

#include <cstdio>
#include <fstream>
#include <optional>
#include <vector>

namespace {

std::int64_t number(std::ifstream &file) {
  std::int64_t value = 0;
  file.read(reinterpret_cast<char *>(&value), sizeof value);
  return value;
}

void write(std::ofstream &file, std::int64_t value) { file.write(reinterpret_cast<const char *>(&value), sizeof value); }

std::size_t bytes_of(const sparsec_tensor &tensor) {
  std::size_t bytes = sparsec_type_bytes(tensor.type);
  for (int axis = 0; axis < tensor.rank; ++axis) bytes *= static_cast<std::size_t>(tensor.shape[axis]);
  return bytes;
}

sparsec_tensor read(std::ifstream &file, std::vector<std::vector<char>> &memory, const std::optional<sparsec::Result> &last) {
  const std::int64_t type = number(file);
  if (type < 0) return last.value()[static_cast<std::size_t>(number(file))];
  std::int64_t shape[SPARSEC_MAX_RANK];
  const std::int64_t rank = number(file);
  for (std::int64_t axis = 0; axis < rank; ++axis) shape[axis] = number(file);
  sparsec_tensor tensor = sparsec_tensor_of(nullptr, static_cast<sparsec_type>(type), static_cast<int>(rank), shape);
  memory.emplace_back(bytes_of(tensor) + 1);
  file.read(memory.back().data(), static_cast<std::streamsize>(bytes_of(tensor)));
  tensor.data = memory.back().data();
  return tensor;
}

void write(std::ofstream &file, const sparsec_tensor &tensor) {
  write(file, tensor.type);
  write(file, tensor.rank);
  for (int axis = 0; axis < tensor.rank; ++axis) write(file, tensor.shape[axis]);
  std::vector<char> dense(bytes_of(tensor));
  sparsec::check(sparsec_copy(&tensor, dense.data(), dense.size()));
  file.write(dense.data(), static_cast<std::streamsize>(dense.size()));
}

}  // namespace

int main(int, char **arguments) {
  try {
    const sparsec::Session session(arguments[1]);
    std::ifstream calls(arguments[2], std::ios::binary);
    std::ofstream answers(arguments[3], std::ios::binary);
    std::optional<sparsec::Result> last;
    while (calls.peek() != std::ifstream::traits_type::eof()) {
      std::vector<std::vector<char>> memory;
      memory.reserve(64);
      std::vector<sparsec_tensor> inputs;
      for (std::int64_t left = number(calls); left > 0; --left) inputs.push_back(read(calls, memory, last));
      last = session.run(inputs);
      for (std::size_t index = 0; index < session.outputs().size(); ++index) write(answers, (*last)[index]);
    }
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
