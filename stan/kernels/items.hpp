// Arguments of functions of Stan programs: a matrix or a vector, an array of them, or an array of
// arrays of them.

#ifndef GPTBAYES_ITEMS_HPP
#define GPTBAYES_ITEMS_HPP

#include <cstddef>
#include <stan/model/model_header.hpp>
#include <vector>

namespace gptbayes {

template <typename T>
constexpr bool is_parameter = stan::is_var<stan::scalar_type_t<T>>::value;

/// Call `visit(item)` for each matrix or vector.
template <typename Item, typename Visit>
void for_each_item(const Eigen::MatrixBase<Item>& item, Visit&& visit) {
  visit(item.eval());  // a part of a matrix, or a product, becomes a matrix here
}

template <typename T, typename Visit>
void for_each_item(const std::vector<T>& array, Visit&& visit) {
  for (const T& item : array) {
    for_each_item(item, visit);
  }
}

/// Call `visit(number)` for each element, item by item and column by column.
template <typename T, typename Visit>
void for_each_number(const T& argument, Visit&& visit) {
  for_each_item(argument, [&visit](const auto& item) {
    for (Eigen::Index i = 0; i < item.size(); ++i) {
      visit(item.data()[i]);
    }
  });
}

template <typename T>
std::size_t n_numbers(const T& argument) {
  std::size_t count = 0;
  for_each_item(argument, [&count](const auto& item) { count += item.size(); });
  return count;
}

/// Memory that Stan frees after the reverse pass.
template <typename T>
T* arena(std::size_t count) {
  return stan::math::ChainableStack::instance_->memalloc_.alloc_array<T>(count);
}

}  // namespace gptbayes

#endif
