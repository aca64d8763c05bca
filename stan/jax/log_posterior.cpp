// The log posterior by the kernels as a function of XLA's foreign function interface, for JAX.

#include <cstdint>
#include <numeric>
#include <vector>

#include "gpt.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int LANES = 8;  // sums that do not wait for each other

/// Log density of independent normal variables, up to a constant. If `slope` is not null, its
/// gradient is written there.
double log_prior(const double* x, double* slope, std::int64_t n, double mean, double precision) {
  double squares[LANES] = {};
  const auto add = [&](std::int64_t i, int lane) {
    const double apart = mean - x[i];
    squares[lane] += apart * apart;
    if (slope) {
      slope[i] = apart * precision;
    }
  };
  const std::int64_t whole = n - n % LANES;
  for (std::int64_t i = 0; i < whole; i += LANES) {
    for (int lane = 0; lane < LANES; ++lane) {
      add(i + lane, lane);
    }
  }
  for (std::int64_t i = whole; i < n; ++i) {
    add(i, int(i - whole));
  }
  return -0.5 * precision * std::accumulate(squares, squares + LANES, 0.0);
}

}  // namespace

// Log posterior of every point, up to a constant, and its gradient.
//
// points: (n, number of weights); leading dims are free. x, y: B T tokens, from 0.
// masks: all masks, one after the other. sizes: as gptbayes_sizes, with matrices by rows.
// lengths: of each argument. precisions: inverse variances of priors, of each argument; negative
// for a mask. means: of priors. weight: of the log likelihood.
ffi::Error log_posterior(ffi::Buffer<ffi::F64> points, ffi::Buffer<ffi::S32> x,
                         ffi::Buffer<ffi::S32> y, ffi::Buffer<ffi::F64> masks,
                         ffi::Span<const std::int64_t> sizes,
                         ffi::Span<const std::int64_t> lengths, ffi::Span<const double> means,
                         ffi::Span<const double> precisions, double weight,
                         ffi::ResultBuffer<ffi::F64> values,
                         ffi::ResultBuffer<ffi::F64> gradients) {
  const gptbayes_sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]), int(sizes[4]),
                         int(sizes[5]), int(sizes[6]), int(sizes[7]), int(sizes[8])};
  const std::int64_t n_tokens = std::int64_t(s.B) * s.T, n = values->element_count();
  const bool with_gradient = gradients->element_count() == points.element_count();
  const std::vector<double> weights(n_tokens, weight);
  std::vector<double> log_lik(n_tokens);
  std::vector<const double*> arguments(lengths.size());
  std::vector<double*> slopes(lengths.size());
  const double* point = points.typed_data();
  double* gradient = with_gradient ? gradients->typed_data() : nullptr;
  for (std::int64_t i = 0; i < n; ++i) {
    const double* mask = masks.typed_data();
    double& value = values->typed_data()[i];
    value = 0.0;
    for (std::size_t k = 0; k < lengths.size(); ++k) {
      const bool is_mask = precisions[k] < 0.0;
      const double*& next = is_mask ? mask : point;
      arguments[k] = next;
      next += lengths[k];
      slopes[k] = is_mask ? nullptr : gradient;
      if (!is_mask) {
        value += log_prior(arguments[k], gradient, lengths[k], means[k], precisions[k]);
        gradient += with_gradient ? lengths[k] : 0;
      }
    }
    // The kernels read the weights where they are, and add to the gradient of the prior.
    if (gptbayes_log_likelihood(&s, x.typed_data(), y.typed_data(), arguments.data(),
                                weights.data(), log_lik.data(),
                                with_gradient ? slopes.data() : nullptr) != 0) {
      return ffi::Error::Internal("the kernels found no memory for one evaluation");
    }
    value += weight * std::accumulate(log_lik.begin(), log_lik.end(), 0.0);
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(gptbayes_log_posterior_ffi, log_posterior,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Attr<ffi::Span<const int64_t>>("sizes")
                                  .Attr<ffi::Span<const int64_t>>("lengths")
                                  .Attr<ffi::Span<const double>>("means")
                                  .Attr<ffi::Span<const double>>("precisions")
                                  .Attr<double>("weight")
                                  .Ret<ffi::Buffer<ffi::F64>>()
                                  .Ret<ffi::Buffer<ffi::F64>>());
