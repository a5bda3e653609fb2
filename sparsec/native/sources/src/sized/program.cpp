// Programs for sizes that only the run tells: compiled stages of rows, and operators and kernels between.
#include <algorithm>
#include <cstring>
#include <set>

#include "../library.hpp"
#include "../pool.hpp"
#include "../program.hpp"
#include "../tensors.hpp"
#include "attention.hpp"
#include "growing.hpp"
#include "operators.hpp"
#include "recurrent.hpp"
#include "rows.hpp"
#include "sizes.hpp"
#include "suppression.hpp"
#include "windows.hpp"

namespace sparsec::native::sized {

namespace {

constexpr std::size_t kAbsent = static_cast<std::size_t>(-1);

// A step: what it reads and makes by number of the value, and which of them no later step needs; it is skipped where a
// condition has not the value that it is taken for.
struct Wiring {
  std::vector<std::size_t> inputs, outputs, spent, conditions;
  std::vector<bool> chosen;
  std::string name;
};

// Steps that are no operators of ONNX.
const std::set<std::string> kCalls = {"rows", "attention", "rotary", "recurrence", "windows", "suppression",
                                      "append", "sparsec.sized::Append"};

bool all_true(const Array &condition) {
  const Array whole = dense(condition);
  const auto *values = whole.values<std::uint8_t>();
  return whole.type == SPARSEC_BOOL && std::all_of(values, values + whole.size(), [](std::uint8_t each) { return each != 0; });
}

using Run = std::function<Arrays(const Arrays &)>;

// Functions of one virtual machine, with the steps that call them; one call at a time.
struct Runner {
  std::vector<std::vector<ffi::Object>> functions;
  std::vector<Run> steps;
};

// A library for a number of rows.
struct Library {
  std::int64_t count;
  ffi::Object module;
  std::vector<std::string> entries;
  std::vector<std::vector<ffi::Object>> constants;
};

Library library_of(const std::shared_ptr<const Model> &model, std::int64_t count, const Json &about) {
  Library library{count, load_library(model->piece(about["library"])), {}, {}};
  for (const Json &function : about["functions"].list()) {
    library.entries.push_back(function["entry"].text());
    library.constants.emplace_back();
    for (const Json &entry : function["constants"].list()) library.constants.back().push_back(constant(model, entry));
  }
  return library;
}

Array array_of(const std::shared_ptr<const Model> &model, const Json &entry) {
  const Model::Piece piece = model->piece(entry["data"]);
  Array array;
  array.owner = model;
  array.data = reinterpret_cast<char *>(const_cast<std::uint8_t *>(piece.data));  // operators only read their inputs
  array.type = static_cast<std::int32_t>(entry["dtype"].integer());
  array.shape = entry["shape"].integers();
  array.strides = dense_strides(array.shape);
  if (piece.bytes != elements_of(array.shape) * array.item()) {
    fail(SPARSEC_ERROR_MODEL, "an array of the model has another size than its shape; bundle the model again");
  }
  return array;
}

class SizedProgram : public Program {
 public:
  explicit SizedProgram(const std::shared_ptr<const Model> &model)
      : plan_(model->plan()["sized"]), inputs_(plan_["inputs"]), limits_(plan_["limits"]),
        buffers_(std::make_shared<Buffers>()) {
    for (const Json &each : inputs_.list()) given_.push_back(number(each["value"].text()));
    for (const auto &[name, entry] : plan_["constants"].object()) constants_.push_back({number(name), array_of(model, entry)});
    for (const auto &[name, entry] : plan_["sizes"].object()) sizes_.push_back({number(name), &entry});
    read_libraries(model);
    read_steps();
    for (const Json &each : plan_["outputs"].list()) {
      const auto found = numbers_.find(each["value"].text());
      if (found == numbers_.end()) fail(SPARSEC_ERROR_MODEL, "the model's plan makes no output; bundle the model again");
      wanted_.push_back(found->second);
    }
    mark_spent();
  }

  void run(const sparsec_tensor *inputs, sparsec_result &result) override {
    Arrays arrays;
    for (std::size_t index = 0; index < given_.size(); ++index) arrays.push_back(input(inputs[index]));
    const Sizes sizes = sizes_of(inputs_, arrays, limits_);
    Arrays values(numbers_.size());
    for (const auto &[slot, array] : constants_) values[slot] = array;
    for (std::size_t index = 0; index < given_.size(); ++index) values[given_[index]] = arrays[index];
    for (const auto &[slot, about] : sizes_) values[slot] = size_value(*about, sizes);
    runners_.with([this] { return make(); }, [&](Runner &runner) { execute(runner, values, sizes); });
    for (std::size_t slot : wanted_) add(result, values[slot]);
  }

 private:
  std::size_t number(const std::string &name) { return numbers_.emplace(name, numbers_.size()).first->second; }

  std::vector<std::size_t> numbers(const Json &names) {
    std::vector<std::size_t> found;
    for (const Json &each : names.list()) {
      found.push_back(each.is_null() || each.text().empty() ? kAbsent : number(each.text()));
    }
    return found;
  }

  void read_libraries(const std::shared_ptr<const Model> &model) {
    std::map<std::int64_t, double> seconds;
    for (const Json &each : plan_["rows"].list()) {
      const std::int64_t count = each["count"].integer();
      libraries_.push_back(library_of(model, count, each));
      if (const Json *own = each.find("recurrences")) recurrences_.push_back(library_of(model, count, *own));
      seconds[count] = each["seconds"].real();
    }
    if (seconds.empty()) seconds[1] = 1;
    splitter_ = std::make_shared<Splitter>(std::move(seconds));
    if (!plan_["kernels"].is_null()) kernels_ = load_library(model->piece(plan_["kernels"]["library"]));
  }

  void read_steps() {
    for (const Json &step : plan_["steps"].list()) {
      Wiring wiring{numbers(step["inputs"]), numbers(step["outputs"]), {}, {}, {}, ""};
      for (const Json &each : step["when"].list()) {
        wiring.conditions.push_back(number(each.list().at(0).text()));
        wiring.chosen.push_back(each.list().at(1).boolean());
      }
      if (kCalls.count(step["op"].text()) == 0) operator_named(step["op"].text());  // refuses one that is not known
      if (wiring.outputs.empty()) fail(SPARSEC_ERROR_MODEL, "a step of the model makes nothing; bundle the model again");
      wiring.name = step["outputs"].list()[0].is_null() ? "" : step["outputs"].list()[0].text();
      wiring_.push_back(std::move(wiring));
    }
  }

  void mark_spent() {
    std::vector<bool> kept(numbers_.size(), false);
    for (std::size_t slot : wanted_) kept[slot] = true;
    for (std::size_t index = wiring_.size(); index-- > 0;) {
      for (const auto *slots : {&wiring_[index].inputs, &wiring_[index].outputs, &wiring_[index].conditions}) {
        for (std::size_t slot : *slots) {
          if (slot == kAbsent || kept[slot]) continue;
          wiring_[index].spent.push_back(slot);
          kept[slot] = true;
        }
      }
    }
  }

  std::unique_ptr<Runner> make() {
    auto runner = std::make_unique<Runner>();
    std::map<std::int64_t, std::size_t> by_count;
    for (const Library &library : libraries_) {
      const ffi::Object machine = new_machine(library.module);
      std::vector<ffi::Object> bound;
      for (std::size_t index = 0; index < library.entries.size(); ++index) {
        bound.push_back(bind_constants(machine, library.entries[index], "bound_" + library.entries[index], library.constants[index]));
      }
      by_count[library.count] = runner->functions.size();
      runner->functions.push_back(std::move(bound));
    }
    for (const Json &step : plan_["steps"].list()) runner->steps.push_back(step_of(step, *runner, by_count));
    return runner;
  }

  Run step_of(const Json &step, const Runner &runner, const std::map<std::int64_t, std::size_t> &by_count) const {
    const std::string &kind = step["op"].text();
    if (kind == "rows") {
      std::map<std::int64_t, const ffi::Object *> functions;
      const auto which = static_cast<std::size_t>(step["number"].integer());
      for (const auto &[count, index] : by_count) functions[count] = &runner.functions[index].at(which);
      auto stage = std::make_shared<RowStage>(step, std::move(functions), splitter_);
      return [stage](const Arrays &arrays) { return stage->run(arrays); };
    }
    if (kind == "attention") {
      const std::int64_t which = step["kernel"].integer();
      const Json &about = plan_["kernels"]["attention"].list().at(static_cast<std::size_t>(which));
      auto attention = std::make_shared<Attention>(kernels_, which, about);
      return [attention](const Arrays &arrays) { return attention->run(arrays); };
    }
    if (kind == "rotary") {
      auto rotary = std::make_shared<Rotary>(kernels_, step["kernel"].integer());
      return [rotary](const Arrays &arrays) { return rotary->run(arrays); };
    }
    if (kind == "recurrence") return recurrent(step);
    if (kind == "windows") {
      auto windows = std::make_shared<Windows>(kernels_, step, by_rows(step));
      return [windows](const Arrays &arrays) { return windows->run(arrays); };
    }
    if (kind == "suppression") {
      auto suppression = std::make_shared<Suppression>(kernels_, step);
      return [suppression](const Arrays &arrays) { return suppression->run(arrays); };
    }
    if (kind == "append") {
      const std::int64_t axis = step["attributes"]["axis"].integer();
      return [this, axis](const Arrays &arrays) { return Arrays{append(buffers_, arrays, axis_of(axis, arrays.at(0).rank()))}; };
    }
    if (kind == "sparsec.sized::Append") {
      return [this](const Arrays &arrays) { return Arrays{append_at(buffers_, arrays)}; };
    }
    const Operator &found = operator_named(kind);
    const Json &attributes = step["attributes"];
    return [&found, &attributes](const Arrays &arrays) { return found(arrays, attributes); };
  }

  // Whether rows alone read what a step makes, so that it may be made when they do.
  bool by_rows(const Json &step) const {
    if (!Windows::copies(step["kind"].text())) return false;
    const std::string &made = step["outputs"].list().at(0).text();
    const auto is_made = [&](const Json &each) { return each.is_text() && each.text() == made; };
    const auto other = [&](const Json &each) {
      const std::vector<Json> &inputs = each["inputs"].list();
      return each["op"].text() != "rows" && std::any_of(inputs.begin(), inputs.end(), is_made);
    };
    const std::vector<Json> &steps = plan_["steps"].list(), &outputs = plan_["outputs"].list();
    return std::none_of(steps.begin(), steps.end(), other) &&
           std::none_of(outputs.begin(), outputs.end(), [&](const Json &each) { return is_made(each["value"]); });
  }

  Run recurrent(const Json &step) const {
    const auto which = static_cast<std::size_t>(step["number"].integer());
    std::map<std::int64_t, Recurrence> kernels;
    for (const Library &library : recurrences_) {
      ffi::Object kernel = ffi::function_of(library.module, library.entries.at(which).c_str());
      kernels.emplace(library.count, Recurrence{std::move(kernel), &library.constants[which]});
    }
    auto found = std::make_shared<Recurrent>(std::move(kernels), step["hidden"].integer());
    return [found](const Arrays &arrays) { return found->run(arrays); };
  }

  Array input(const sparsec_tensor &given) const {
    Array array;
    array.data = static_cast<char *>(given.data);
    array.type = given.type;
    array.shape.assign(given.shape, given.shape + given.rank);
    array.strides.assign(given.strides, given.strides + given.rank);
    array.borrowed = true;
    if ((array.buffer = buffers_->at(given.data)) != nullptr) array.owner = array.buffer;
    return array;
  }

  static Array size_value(const Json &about, const Sizes &sizes) {
    Shape values;
    for (const Json &terms : about["terms"].list()) values.push_back(value_of(terms, sizes));
    const Shape shape = about["rank"].integer() == 0 ? Shape{} : Shape{static_cast<std::int64_t>(values.size())};
    return integers(values, shape, static_cast<std::int32_t>(about["dtype"].integer()));
  }

  void execute(Runner &runner, Arrays &values, const Sizes &sizes) const {
    for (std::size_t index = 0; index < wiring_.size(); ++index) {
      const Wiring &wiring = wiring_[index];
      if (taken(wiring, values)) take(runner.steps[index], wiring, values, sizes);
      for (std::size_t slot : wiring.spent) values[slot] = Array{};
    }
  }

  static bool taken(const Wiring &wiring, const Arrays &values) {
    for (std::size_t place = 0; place < wiring.conditions.size(); ++place) {
      if (all_true(values[wiring.conditions[place]]) != wiring.chosen[place]) return false;
    }
    return true;
  }

  static void take(const Run &run, const Wiring &wiring, Arrays &values, const Sizes &sizes) {
    Arrays inputs, outputs;
    for (std::size_t slot : wiring.inputs) inputs.push_back(slot == kAbsent ? Array{} : values[slot]);
    try {
      outputs = run(inputs);
    } catch (const Failure &failure) {
      if (failure.status != SPARSEC_ERROR_INPUT) throw;
      misfit("'" + wiring.name + "' cannot be computed where " + listed(sizes) + ": " + failure.what());
    }
    for (std::size_t place = 0; place < std::min(outputs.size(), wiring.outputs.size()); ++place) {
      if (wiring.outputs[place] != kAbsent) values[wiring.outputs[place]] = std::move(outputs[place]);
    }
  }

  // An output: a cache where its buffer lies, everything else dense and in memory that is not the caller's.
  static void add(sparsec_result &result, const Array &value) {
    if (!value) fail(SPARSEC_ERROR_MODEL, "the model's plan makes no output; bundle the model again");
    if (value.rank() > SPARSEC_MAX_RANK) fail(SPARSEC_ERROR_INTERNAL, "an output has too many dimensions");
    Array whole = value;
    if (!value.buffer) {
      whole = dense(value);
      if (whole.borrowed) {
        whole = allocate(value.type, value.shape);
        copy_to(value, whole);
      }
    }
    sparsec_tensor tensor = sparsec_tensor_of(whole.data, static_cast<sparsec_type>(whole.type),
                                              static_cast<std::int32_t>(whole.rank()), whole.shape.data());
    std::copy(whole.strides.begin(), whole.strides.end(), tensor.strides);
    result.outputs.push_back(tensor);
    result.owners.push_back(whole.owner);
  }

  const Json &plan_, &inputs_, &limits_;
  std::map<std::string, std::size_t> numbers_;
  std::vector<std::size_t> given_, wanted_;
  std::vector<std::pair<std::size_t, Array>> constants_;
  std::vector<std::pair<std::size_t, const Json *>> sizes_;
  std::vector<Library> libraries_, recurrences_;
  ffi::Object kernels_;
  std::shared_ptr<Splitter> splitter_;
  std::vector<Wiring> wiring_;
  const std::shared_ptr<Buffers> buffers_;
  Pool<Runner> runners_;
};

}  // namespace

}  // namespace sparsec::native::sized

namespace sparsec::native {

std::unique_ptr<Program> open_sized(const std::shared_ptr<const Model> &model) {
  return std::make_unique<sized::SizedProgram>(model);
}

}  // namespace sparsec::native
