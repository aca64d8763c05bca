// gpt_log_likelihood for Stan programs: token_log_likelihood(y, gpt_logits(x, ...)), computed by
// gpt.cpp. GPTBAYES_STAGE is the number of the stage. gptbayes/model/kernel_sources.py writes one
// header per stage that defines it, and `arguments.inc`, the list of all arguments.
//
// A model block needs the gradient of the sum of the log likelihoods, so this gradient is computed
// together with their values. Any other weighted sum costs a second evaluation.

#ifndef GPTBAYES_GPT_LOG_LIKELIHOOD_HPP
#define GPTBAYES_GPT_LOG_LIKELIHOOD_HPP

#include <algorithm>
#include <new>
#include <ostream>
#include <stan/model/model_header.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "gpt.h"
#include "items.hpp"

namespace gptbayes {

constexpr const char* NAME = "gpt_log_likelihood";
using Tokens = std::vector<std::vector<int>>;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vars = Eigen::Matrix<stan::math::var, Eigen::Dynamic, Eigen::Dynamic>;

/// The number of items of an argument and the shape of each.
struct ExpectedShape {
  const char* name;
  int items, rows, columns;
};

/// The arguments of gpt_logits after x, in order.
inline std::vector<ExpectedShape> expected_shapes(const gptbayes_sizes& s) {
  const int V = s.V, block_size = s.block_size, C = s.C, H = s.H, L = s.L, h = C / H;
  const int F = s.stage >= 8 ? 4 * C : C;  // hidden units
  std::vector<ExpectedShape> shapes;
#define GPTBAYES_ARGUMENT(since, name, has_gradient, items, rows, columns) \
  if (s.stage >= since) {                                                  \
    shapes.push_back({#name, items, rows, columns});                       \
  }
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT
  return shapes;
}

/// The position of an argument of this stage in the list.
constexpr std::size_t index_of(std::string_view argument) {
  std::size_t index = 0;
#define GPTBAYES_ARGUMENT(since, name, ...) \
  if (GPTBAYES_STAGE >= since) {            \
    if (argument == #name) {                \
      return index;                         \
    }                                       \
    ++index;                                \
  }
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT
  return index;
}

/// @throw std::invalid_argument with the argument's name, the expected shape and the shape it has
template <typename T>
void check(const T& argument, const ExpectedShape& expected) {
  int items = 0;
  const auto fail = [&](const std::string& got) {
    throw std::invalid_argument(std::string(NAME) + ": " + expected.name + " must be "
                                + std::to_string(expected.items) + " of ("
                                + std::to_string(expected.rows) + ", "
                                + std::to_string(expected.columns) + "), got " + got);
  };
  for_each_item(argument, [&](const auto& item) {
    if (item.rows() != expected.rows || item.cols() != expected.columns) {
      fail("one of (" + std::to_string(item.rows()) + ", " + std::to_string(item.cols())
               + ")");
    }
    ++items;
  });
  if (items != expected.items) {
    fail(std::to_string(items));
  }
}

/// @throw std::invalid_argument, std::out_of_range as Stan does
inline std::vector<int> flat_tokens(const char* name, const Tokens& tokens, int B, int T, int V) {
  stan::math::check_size_match(NAME, "sequences of ", name, tokens.size(), "sequences of ", "x", B);
  std::vector<int> flat;
  flat.reserve(static_cast<std::size_t>(B) * T);
  for (const auto& sequence : tokens) {
    stan::math::check_size_match(NAME, "tokens in a sequence of ", name, sequence.size(),
                                 "tokens in the first of ", "x", T);
    for (const int token : sequence) {
      if (token < 1 || token > V) {
        throw std::out_of_range(std::string(NAME) + ": " + name + " must be between 1 and "
                                + std::to_string(V) + ", got " + std::to_string(token));
      }
      flat.push_back(token - 1);
    }
  }
  return flat;
}

// ---- sizes ----

template <typename Item>
int heads(const Eigen::MatrixBase<Item>&) {
  return 1;
}
template <typename T, int R, int C>
int heads(const std::vector<Eigen::Matrix<T, R, C>>& key) {
  return static_cast<int>(key.size());
}
template <typename T>
int heads(const std::vector<std::vector<T>>& key) {
  return key.empty() ? 0 : static_cast<int>(key[0].size());
}

template <typename T>
int layers(const T&) {
  return 1;
}
template <typename T>
int layers(const std::vector<std::vector<T>>& key) {
  return static_cast<int>(key.size());
}

template <typename... Args>
gptbayes_sizes sizes_of(const Tokens& x, const std::tuple<const Args&...>& arguments) {
  gptbayes_sizes s{};
  const auto& token_embedding = std::get<index_of("token_embedding")>(arguments);
  s.stage = GPTBAYES_STAGE;
  s.B = static_cast<int>(x.size());
  s.T = s.B > 0 ? static_cast<int>(x[0].size()) : 0;
  s.V = static_cast<int>(token_embedding.size());
  s.C = s.V > 0 ? static_cast<int>(token_embedding[0].size()) : 0;
  s.block_size = s.T;
  s.H = s.L = 1;
  if constexpr (GPTBAYES_STAGE == 1) {
    stan::math::check_size_match(NAME, "numbers for each token_embedding", s.C,
                                 "tokens that have one", s.V);
  }
  if constexpr (GPTBAYES_STAGE >= 3) {
    s.block_size =
        static_cast<int>(std::get<index_of("position_embedding")>(arguments).size());
    stan::math::check_less_or_equal(NAME, "tokens in a sequence of x", s.T, s.block_size);
  }
  if constexpr (GPTBAYES_STAGE >= 4) {
    const auto& key = std::get<index_of("key")>(arguments);
    s.H = heads(key);
    s.L = layers(key);
  }
  stan::math::check_positive(NAME, "number of heads", s.H);
  return s;
}

// ---- values, gradients, and the reverse pass ----

/// A call of gptbayes_log_likelihood. Its arrays are in Stan's arena, where they last until the
/// reverse pass.
struct Call {
  gptbayes_sizes sizes;
  int n_tokens, n_arguments;
  std::size_t n_numbers = 0;  // in all arguments
  int *x, *y;
  double** arguments;
  double** gradients;
  double *values, *gradient;      // one element per number
  stan::math::vari** parameters;  // the autodiff variable of each number, or null for data
  double* weights;
};

inline int* in_arena(const std::vector<int>& tokens) {
  return std::copy(tokens.begin(), tokens.end(), arena<int>(tokens.size())) - tokens.size();
}

template <typename T>
void append(Call& call, int& which, const T& argument) {
  call.arguments[which] = call.values + call.n_numbers;
  call.gradients[which] = is_parameter<T> ? call.gradient + call.n_numbers : nullptr;
  ++which;
  for_each_number(argument, [&call](const auto& number) {
    call.values[call.n_numbers] = stan::math::value_of(number);
    if constexpr (is_parameter<T>) {
      call.parameters[call.n_numbers] = number.vi_;
    } else {
      call.parameters[call.n_numbers] = nullptr;
    }
    ++call.n_numbers;
  });
}

/// @throw as `check` and `flat_tokens`
template <typename... Args>
Call call_of(const Tokens& y, const Tokens& x, const Args&... arguments) {
  Call call;
  call.sizes = sizes_of(x, std::tie(arguments...));
  const auto& s = call.sizes;
  call.n_arguments = sizeof...(arguments);
  const std::vector<ExpectedShape> all = expected_shapes(s);
  stan::math::check_size_match(NAME, "arguments", call.n_arguments, "arguments of this stage",
                               all.size());
  int which = 0;
  (check(arguments, all[which++]), ...);
  call.x = in_arena(flat_tokens("x", x, s.B, s.T, s.V));
  call.y = in_arena(flat_tokens("y", y, s.B, s.T, s.V));
  call.n_tokens = s.B * s.T;

  std::size_t count = 0;
  for (const ExpectedShape& each : all) {
    count += static_cast<std::size_t>(each.items) * each.rows * each.columns;
  }
  call.arguments = arena<double*>(call.n_arguments);
  call.gradients = arena<double*>(call.n_arguments);
  call.values = arena<double>(count);
  call.gradient = arena<double>(count);
  call.parameters = arena<stan::math::vari*>(count);
  call.weights = arena<double>(call.n_tokens);
  which = 0;
  (append(call, which, arguments), ...);
  return call;
}

/// The log likelihoods and, if asked for, the gradient of their sum weighted by `call.weights`.
inline Eigen::MatrixXd evaluate(const Call& call, bool with_gradient) {
  RowMajor log_lik(call.sizes.B, call.sizes.T);  // sequence 1 first, then sequence 2
  if (with_gradient) {
    std::fill_n(call.gradient, call.n_numbers, 0.0);
  }
  if (call.n_tokens > 0
      && gptbayes_log_likelihood(&call.sizes, call.x, call.y, call.arguments, call.weights,
                                 log_lik.data(), with_gradient ? call.gradients : nullptr)
             != 0) {
    throw std::bad_alloc();
  }
  return log_lik;
}

/// Reverse pass: from the adjoints of the log likelihoods to those of the parameters.
inline void chain(Call& call, const stan::arena_t<Vars>& log_lik) {
  double scale = call.n_tokens > 0 ? log_lik.coeff(0, 0).adj() : 0;
  if (!(log_lik.adj().array() == scale).all()) {
    Eigen::Map<RowMajor>(call.weights, call.sizes.B, call.sizes.T) = log_lik.adj();
    evaluate(call, true);
    scale = 1;
  }
  for (std::size_t i = 0; i < call.n_numbers; ++i) {
    if (call.parameters[i]) {
      call.parameters[i]->adj_ += scale * call.gradient[i];
    }
  }
}

/// For data, the values. For parameters, autodiff variables with the gradient.
template <typename... Args, std::size_t... I>
auto gpt_log_likelihood(const Tokens& y, const Tokens& x, const std::tuple<const Args&...>& all,
                        std::index_sequence<I...>) {
  constexpr bool with_gradient
      = (is_parameter<std::tuple_element_t<I, std::tuple<Args...>>> || ...);
  if constexpr (with_gradient) {
    Call call = call_of(y, x, std::get<I>(all)...);
    std::fill_n(call.weights, call.n_tokens, 1.0);
    stan::arena_t<Vars> log_lik = evaluate(call, true);
    stan::math::reverse_pass_callback([call, log_lik]() mutable { chain(call, log_lik); });
    return Vars(log_lik);
  } else {
    stan::math::nested_rev_autodiff frees_the_arena;
    const Call call = call_of(y, x, std::get<I>(all)...);
    std::fill_n(call.weights, call.n_tokens, 1.0);
    return evaluate(call, false);
  }
}

}  // namespace gptbayes

/**
 * Log probability of each next token in nats, (B, T).
 *
 * @param arguments those of the stage's gpt_logits after x, then the output stream for messages
 *   that Stan passes to every function, which is not used
 */
template <typename... Args>
auto gpt_log_likelihood(const gptbayes::Tokens& y, const gptbayes::Tokens& x,
                        const Args&... arguments) {
  return gptbayes::gpt_log_likelihood(y, x, std::tuple<const Args&...>(arguments...),
                                      std::make_index_sequence<sizeof...(Args) - 1>());
}

#endif
