// run [--size NAME=N]... MODEL [CALLS]: runs a model on random inputs, and tells how long a call takes. Open sizes are 1
// where they are not given by their names, or by INPUT.AXIS where a size has none.
// run [--size NAME=N]... MODEL --inputs A.bin B.bin -o Y.bin: on the bytes of files, one an input; writes the first
// output's.
#include <sparsec.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::string described(const sparsec_info &info) {
  std::string text = std::string(info.name) + " [";
  for (int axis = 0; axis < info.rank; ++axis) {
    text += axis > 0 ? ", " : "";
    text += info.dims[axis] != nullptr ? info.dims[axis] : std::to_string(info.shape[axis]);
  }
  return text + "]";
}

bool is_number(const std::string &word) {
  return !word.empty() && word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos;
}

// The open sizes that were asked for, by name; which of them there are is known once all inputs have asked.
class Sizes {
 public:
  // Of a text such as "batch=8"; false where it is none.
  bool add(const std::string &text) {
    const std::size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0 || !is_number(text.substr(equals + 1))) return false;
    given_[text.substr(0, equals)] = std::stol(text.substr(equals + 1));
    return true;
  }

  // What an open size is: "batch", "1/8/32" of a model for several, or what follows from others, "past + 2*rows".
  std::int64_t of(const sparsec_info &info, int axis) {
    const std::string place = std::string(info.name) + "." + std::to_string(axis), text = info.dims[axis];
    names_.insert(text.find('/') == std::string::npos ? text : place);
    places_.insert(place);
    if (given_.count(place) > 0) return given_[place];
    std::int64_t sum = 0;
    std::istringstream terms(text);
    for (std::string term; std::getline(terms, term, '+');) {
      std::int64_t product = 1;
      std::istringstream factors(term);
      for (std::string factor; std::getline(factors, factor, '*');) {
        factor.erase(0, factor.find_first_not_of(' '));
        factor.erase(factor.find_last_not_of(' ') + 1);
        const bool number = factor.find_first_not_of("-0123456789") == std::string::npos;
        if (!number) places_.insert(factor);
        product *= number ? std::atoi(factor.c_str())
                          : given_.count(factor) > 0 ? given_[factor] : std::max(1, std::atoi(factor.c_str()));
      }
      sum += product;
    }
    return sum;
  }

  // Throws where a name is none of the model's.
  void check() const {
    for (const auto &[name, size] : given_) {
      if (places_.count(name) > 0 || names_.count(name) > 0) continue;
      std::string known;
      for (const std::string &each : names_) known += (known.empty() ? "" : ", ") + each;
      throw std::invalid_argument("--size " + name + "=" + std::to_string(size) + ": the model has " +
                                  (known.empty() ? "no open sizes" : "the open sizes " + known));
    }
  }

 private:
  std::map<std::string, std::int64_t> given_;
  std::set<std::string> names_, places_;
};

// Memory for an input, and a tensor of it.
struct Input {
  Input(const sparsec_info &info, Sizes &sizes) {
    std::int64_t shape[SPARSEC_MAX_RANK];
    std::size_t count = 1;
    for (int axis = 0; axis < info.rank; ++axis) {
      shape[axis] = info.shape[axis] >= 0 ? info.shape[axis] : sizes.of(info, axis);
      count *= static_cast<std::size_t>(shape[axis]);
    }
    bytes.resize(count * sparsec_type_bytes(info.type));
    tensor = sparsec_tensor_of(bytes.data(), static_cast<sparsec_type>(info.type), info.rank, shape);
  }
  void fill() {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    if (tensor.type != SPARSEC_FLOAT32) return;  // zeros are right everywhere
    auto *values = reinterpret_cast<float *>(bytes.data());
    std::generate(values, values + bytes.size() / sizeof(float), [&] { return normal(random); });
  }
  std::vector<char> bytes;
  sparsec_tensor tensor;
};

void read(const std::string &path, std::vector<char> &bytes) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> found{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (found.size() != bytes.size()) {
    throw std::runtime_error(path + " has " + std::to_string(found.size()) + " bytes, and the input takes " +
                             std::to_string(bytes.size()));
  }
  std::copy(found.begin(), found.end(), bytes.begin());
}

void time_calls(const sparsec::Session &session, const std::vector<sparsec_tensor> &tensors, int calls) {
  std::vector<double> times;
  for (int call = 0; call < calls; ++call) {
    const auto start = std::chrono::steady_clock::now();
    session.run(tensors);
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("median of %d calls: %.2f us on %d thread%s\n", calls, times[times.size() / 2], session.threads(),
              session.threads() == 1 ? "" : "s");
}

int usage(int code) {
  std::fprintf(code == 0 ? stdout : stderr,
               "usage: run [--size NAME=N]... MODEL [CALLS]\n"
               "         on random inputs; tells how long a call takes\n"
               "       run [--size NAME=N]... MODEL --inputs FILE... -o FILE\n"
               "         on files with the bytes of one input each, in order, as numpy's tofile writes them; writes\n"
               "         those of the first output\n"
               "--size gives an open size by its name, or by INPUT.AXIS, such as image.0=8; others are 1\n");
  return code;
}

}  // namespace

int main(int count, char **arguments) {
  if (count < 2) return usage(2);
  if (arguments[1] == std::string("--help") || arguments[1] == std::string("-h")) return usage(0);
  Sizes sizes;
  while (arguments[1] == std::string("--size")) {
    if (count < 4 || !sizes.add(arguments[2])) return usage(2);
    arguments += 2, count -= 2;
  }
  const std::vector<std::string> words(arguments + 2, arguments + count);
  try {
    const sparsec::Session session(arguments[1]);
    std::vector<Input> inputs;
    for (const sparsec_info &info : session.inputs()) {
      std::printf("input %s\n", described(info).c_str());
      inputs.emplace_back(info, sizes).fill();
    }
    sizes.check();
    for (const sparsec_info &info : session.outputs()) std::printf("output %s\n", described(info).c_str());
    const bool files = words.size() == inputs.size() + 3 && words[0] == "--inputs" && words[words.size() - 2] == "-o";
    if (!files && !words.empty() && (words.size() > 1 || !is_number(words[0]))) return usage(2);
    std::vector<sparsec_tensor> tensors;
    for (std::size_t index = 0; index < inputs.size(); ++index) {
      if (files) read(words[1 + index], inputs[index].bytes);
      tensors.push_back(inputs[index].tensor);
    }
    if (files) {
      const sparsec::Result result = session.run(tensors);
      const sparsec_tensor &first = result[0];
      std::size_t bytes = sparsec_type_bytes(first.type);
      for (int axis = 0; axis < first.rank; ++axis) bytes *= static_cast<std::size_t>(first.shape[axis]);
      std::vector<char> values(bytes);
      sparsec::check(sparsec_copy(&first, values.data(), values.size()));
      std::ofstream(words.back(), std::ios::binary).write(values.data(), static_cast<std::streamsize>(bytes));
    } else {
      time_calls(session, tensors, words.empty() ? 100 : std::max(1, std::atoi(words[0].c_str())));
    }
  } catch (const std::invalid_argument &error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 2;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 1;
  }
  return 0;
}
