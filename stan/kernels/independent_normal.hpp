// independent_normal for Stan programs: `x ~ independent_normal(mean, sd)` is the prior of all
// elements of a parameter, a matrix, a vector or arrays of them, in one pass and with one node of
// the expression graph. Stan's normal takes vectors only, and copies each.

#ifndef GPTBAYES_INDEPENDENT_NORMAL_HPP
#define GPTBAYES_INDEPENDENT_NORMAL_HPP

#include <ostream>
#include <stan/model/model_header.hpp>

#include "items.hpp"

/**
 * Log density of independent normal variables with the same mean and standard deviation, in nats.
 *
 * @tparam propto without the terms that do not depend on x
 * @throw std::domain_error if sd is not positive and finite
 */
template <bool propto, typename T>
stan::return_type_t<stan::scalar_type_t<T>> independent_normal_lpdf(const T& x, double mean,
                                                                    double sd, std::ostream*) {
  using namespace gptbayes;
  stan::math::check_positive_finite("independent_normal_lpdf", "Scale parameter", sd);
  const double precision = 1 / (sd * sd);
  const std::size_t count = n_numbers(x);
  double squares = 0;
  for_each_number(x, [&](const auto& number) {
    squares += stan::math::square(stan::math::value_of(number) - mean);
  });
  double log_density = -0.5 * precision * squares;
  if constexpr (!propto) {
    log_density += count * (stan::math::NEG_LOG_SQRT_TWO_PI - std::log(sd));
  }
  if constexpr (is_parameter<T>) {
    stan::math::vari** parameters = arena<stan::math::vari*>(count);
    std::size_t next = 0;
    for_each_number(x, [&](const auto& number) { parameters[next++] = number.vi_; });
    return stan::math::make_callback_var(log_density, [=](const auto& result) {
      const double scale = result.adj() * precision;
      for (std::size_t i = 0; i < count; ++i) {
        parameters[i]->adj_ += scale * (mean - parameters[i]->val_);
      }
    });
  } else {
    return log_density;
  }
}

#endif
