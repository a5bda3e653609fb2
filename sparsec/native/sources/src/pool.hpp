// Things that serve one call at a time: taken from those that are idle, or made.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace sparsec::native {

template <typename T>
class Pool {
 public:
  // Call `use` with an idle one; `make` makes one more, under the pool's lock, where none is idle.
  template <typename Make, typename Use>
  void with(Make &&make, Use &&use) {
    const Taken taken{*this, take(make)};
    use(*taken.one);
  }

 private:
  struct Taken {
    Pool &pool;
    std::unique_ptr<T> one;
    Taken(Pool &from, std::unique_ptr<T> taken) : pool(from), one(std::move(taken)) {}
    ~Taken() {
      const std::lock_guard<std::mutex> lock(pool.mutex_);
      pool.idle_.push_back(std::move(one));
    }
    Taken(const Taken &) = delete;
    Taken &operator=(const Taken &) = delete;
  };

  template <typename Make>
  std::unique_ptr<T> take(Make &&make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) {
      std::unique_ptr<T> made = make();
      idle_.reserve(++made_);  // so that giving back takes no memory
      return made;
    }
    std::unique_ptr<T> found = std::move(idle_.back());
    idle_.pop_back();
    return found;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> idle_;
  std::size_t made_ = 0;
};

}  // namespace sparsec::native
