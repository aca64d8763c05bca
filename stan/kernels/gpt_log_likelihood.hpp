// gpt_log_likelihood for Stan programs: what functions/log_likelihood/ says in Stan, computed by
// gpt.cpp. GPTBAYES_STAGE is the number of the stage.
//
// The gradient of the sum of the log likelihoods is found together with their values, because that
// is what a model block asks for. Whoever weights them otherwise pays a second time.

#ifndef GPTBAYES_GPT_LOG_LIKELIHOOD_HPP
#define GPTBAYES_GPT_LOG_LIKELIHOOD_HPP

#include <algorithm>
#include <new>
#include <ostream>
#include <stan/model/model_header.hpp>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "gpt.h"

namespace gptbayes {

constexpr const char* NAME = "gpt_log_likelihood";
using Tokens = std::vector<std::vector<int>>;

template <typename T>
constexpr bool is_parameter = stan::is_var<stan::scalar_type_t<T>>::value;

// ---- arguments: a matrix or a vector, an array of them, an array of arrays of them ----

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

/// What an argument must be like.
struct Wanted {
  const char* name;
  int items, rows, columns;
};

/// The arguments of gpt_logits after x, in order: as in gpt.cpp, and in the programs.
inline std::vector<Wanted> wanted(const gptbayes_sizes& s) {
  const int h = s.C / s.H, L = s.L, C = s.C, F = s.stage >= 8 ? 4 * C : C;
  const struct { int since; Wanted argument; } ladder[] = {
      {1, {"token_embedding", s.V, C, 1}},
      {3, {"position_embedding", s.block_size, C, 1}},
      {4, {"key", L * s.H, C, h}},
      {4, {"query", L * s.H, C, h}},
      {4, {"value", L * s.H, C, h}},
      {11, {"attention_mask", L * s.H, s.block_size, s.block_size}},
      {12, {"sa_proj_multiplier", L, C, C}},
      {12, {"sa_proj_offset", L, C, 1}},
      {11, {"attention_output_mask", L, C, 1}},
      {6, {"feed_forward_multiplier", L, F, C}},
      {6, {"feed_forward_offset", L, F, 1}},
      {8, {"feed_forward_proj_multiplier", L, C, F}},
      {8, {"feed_forward_proj_offset", L, C, 1}},
      {11, {"feed_forward_mask", L, C, 1}},
      {9, {"ln1_weight", L, C, 1}},
      {9, {"ln1_bias", L, C, 1}},
      {9, {"ln2_weight", L, C, 1}},
      {9, {"ln2_bias", L, C, 1}},
      {10, {"ln_f_weight", 1, C, 1}},
      {10, {"ln_f_bias", 1, C, 1}},
      {2, {"lm_head_multiplier", 1, s.V, C}},
      {2, {"lm_head_offset", 1, s.V, 1}},
  };
  std::vector<Wanted> found;
  for (const auto& rung : ladder) {
    if (s.stage >= rung.since) {
      found.push_back(rung.argument);
    }
  }
  return found;
}

/// @throw std::invalid_argument naming the argument, what was wanted and what came
template <typename T>
void check(const T& argument, const Wanted& wanted) {
  int items = 0;
  const auto complain = [&](const std::string& came) {
    throw std::invalid_argument(std::string(NAME) + ": " + wanted.name + " must be "
                                + std::to_string(wanted.items) + " of ("
                                + std::to_string(wanted.rows) + ", "
                                + std::to_string(wanted.columns) + "), got " + came);
  };
  for_each_item(argument, [&](const auto& item) {
    if (item.rows() != wanted.rows || item.cols() != wanted.columns) {
      complain("one of (" + std::to_string(item.rows()) + ", " + std::to_string(item.cols())
               + ")");
    }
    ++items;
  });
  if (items != wanted.items) {
    complain(std::to_string(items));
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
  const auto& token_embedding = std::get<0>(arguments);
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
    s.block_size = static_cast<int>(std::get<1>(arguments).size());
    stan::math::check_less_or_equal(NAME, "tokens in a sequence of x", s.T, s.block_size);
  }
  if constexpr (GPTBAYES_STAGE >= 4) {
    s.H = heads(std::get<2>(arguments));
    s.L = layers(std::get<2>(arguments));
  }
  stan::math::check_positive(NAME, "number of heads", s.H);
  return s;
}

// ---- values, gradients, and the way back ----

/// A call of gptbayes_log_likelihood, in Stan's arena, so that the way back finds it there.
struct Call {
  gptbayes_sizes sizes;
  int n_tokens, n_arguments;
  std::size_t n_numbers = 0;  // of all arguments
  int *x, *y;
  double** arguments;
  double** gradients;
  double *values, *gradient;       // of each number
  stan::math::vari** parameters;  // what each number is, or null if it is data
  double* weights;
};

template <typename T>
T* arena(std::size_t count) {
  return stan::math::ChainableStack::instance_->memalloc_.alloc_array<T>(count);
}

inline int* in_arena(const std::vector<int>& tokens) {
  return std::copy(tokens.begin(), tokens.end(), arena<int>(tokens.size())) - tokens.size();
}

template <typename T>
void append(Call& call, int& which, const T& argument) {
  call.arguments[which] = call.values + call.n_numbers;
  call.gradients[which] = is_parameter<T> ? call.gradient + call.n_numbers : nullptr;
  ++which;
  for_each_item(argument, [&call](const auto& item) {
    for (Eigen::Index i = 0; i < item.size(); ++i, ++call.n_numbers) {
      if constexpr (is_parameter<T>) {
        call.values[call.n_numbers] = item.data()[i].val();
        call.parameters[call.n_numbers] = item.data()[i].vi_;
      } else {
        call.values[call.n_numbers] = item.data()[i];
        call.parameters[call.n_numbers] = nullptr;
      }
    }
  });
}

/// @throw what `check` and `flat_tokens` throw
template <typename... Args>
Call call_of(const Tokens& y, const Tokens& x, const Args&... arguments) {
  Call call;
  call.sizes = sizes_of(x, std::tie(arguments...));
  const auto& s = call.sizes;
  call.n_arguments = sizeof...(arguments);
  const std::vector<Wanted> all = wanted(s);
  stan::math::check_size_match(NAME, "arguments", call.n_arguments, "arguments of this stage",
                               all.size());
  int which = 0;
  (check(arguments, all[which++]), ...);
  call.x = in_arena(flat_tokens("x", x, s.B, s.T, s.V));
  call.y = in_arena(flat_tokens("y", y, s.B, s.T, s.V));
  call.n_tokens = s.B * s.T;

  std::size_t count = 0;
  for (const Wanted& each : all) {
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

/// The log likelihoods and, if wanted, the gradient of their sum weighted by `call.weights`.
inline Eigen::VectorXd evaluate(const Call& call, bool with_gradient) {
  Eigen::VectorXd log_lik(call.n_tokens);
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

/// On the way back: the adjoints of the log likelihoods go to the parameters.
inline void chain(Call& call, const stan::arena_t<Eigen::Matrix<stan::math::var, -1, 1>>& log_lik) {
  double scale = call.n_tokens > 0 ? log_lik.coeff(0).adj() : 0;
  if (!(log_lik.adj().array() == scale).all()) {
    Eigen::Map<Eigen::VectorXd>(call.weights, call.n_tokens) = log_lik.adj();
    evaluate(call, true);
    scale = 1;
  }
  for (std::size_t i = 0; i < call.n_numbers; ++i) {
    if (call.parameters[i]) {
      call.parameters[i]->adj_ += scale * call.gradient[i];
    }
  }
}

/// With numbers: values. With parameters: values that know their gradient.
template <typename... Args, std::size_t... I>
auto gpt_log_likelihood(const Tokens& y, const Tokens& x, const std::tuple<const Args&...>& all,
                        std::index_sequence<I...>) {
  constexpr bool with_gradient = (is_parameter<std::tuple_element_t<I, std::tuple<Args...>>> || ...);
  if constexpr (with_gradient) {
    Call call = call_of(y, x, std::get<I>(all)...);
    std::fill_n(call.weights, call.n_tokens, 1.0);
    stan::arena_t<Eigen::Matrix<stan::math::var, -1, 1>> log_lik = evaluate(call, true);
    stan::math::reverse_pass_callback([call, log_lik]() mutable { chain(call, log_lik); });
    return Eigen::Matrix<stan::math::var, -1, 1>(log_lik);
  } else {
    stan::math::nested_rev_autodiff frees_the_arena;
    const Call call = call_of(y, x, std::get<I>(all)...);
    std::fill_n(call.weights, call.n_tokens, 1.0);
    return evaluate(call, false);
  }
}

}  // namespace gptbayes

/**
 * Log probability of every next token, in nats: sequence 1 first, then sequence 2.
 *
 * @param arguments those of the stage's gpt_logits after x; the last one is a stream for messages,
 *   of which there are none
 */
template <typename... Args>
auto gpt_log_likelihood(const gptbayes::Tokens& y, const gptbayes::Tokens& x,
                        const Args&... arguments) {
  return gptbayes::gpt_log_likelihood(y, x, std::tuple<const Args&...>(arguments...),
                                      std::make_index_sequence<sizeof...(Args) - 1>());
}

#endif
