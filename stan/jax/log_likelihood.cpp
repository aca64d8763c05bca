// The kernels' log likelihood as a function of XLA's foreign function interface, for JAX.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gpt.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Weighted log likelihood of every point and its gradient.
//
// points: (n, number of weights), in the order of the kernels' arguments; leading dims are free.
// x, y: B T tokens, from 0. masks: all masks, one after the other.
// sizes: as gptbayes_sizes. lengths: of each argument, negative for a mask.
ffi::Error log_likelihood(ffi::Buffer<ffi::F64> points, ffi::Buffer<ffi::S32> x,
                          ffi::Buffer<ffi::S32> y, ffi::Buffer<ffi::F64> masks,
                          ffi::Span<const int64_t> sizes, ffi::Span<const int64_t> lengths,
                          double weight, ffi::ResultBuffer<ffi::F64> values,
                          ffi::ResultBuffer<ffi::F64> gradients) {
  const gptbayes_sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]),
                         int(sizes[4]), int(sizes[5]), int(sizes[6]), int(sizes[7])};
  std::int64_t n_weights = 0;
  for (const std::int64_t length : lengths) {
    n_weights += length > 0 ? length : 0;
  }
  const std::int64_t n = points.element_count() / n_weights;
  const std::int64_t n_tokens = std::int64_t(s.B) * s.T;
  const bool with_gradient = gradients->element_count() == points.element_count();
  const std::vector<double> weights(n_tokens, weight);
  std::vector<double> log_lik(n_tokens);
  std::vector<const double*> arguments(lengths.size());
  std::vector<double*> slopes(lengths.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const double* point = points.typed_data() + i * n_weights;
    const double* mask = masks.typed_data();
    double* slope = nullptr;
    if (with_gradient) {
      slope = gradients->typed_data() + i * n_weights;
      std::fill(slope, slope + n_weights, 0.0);  // the kernels add to it
    }
    for (std::size_t k = 0; k < lengths.size(); ++k) {
      slopes[k] = nullptr;
      if (lengths[k] < 0) {
        arguments[k] = mask;
        mask -= lengths[k];
        continue;
      }
      arguments[k] = point;
      point += lengths[k];
      if (with_gradient) {
        slopes[k] = slope;
        slope += lengths[k];
      }
    }
    if (gptbayes_log_likelihood(&s, x.typed_data(), y.typed_data(), arguments.data(),
                                weights.data(), log_lik.data(),
                                with_gradient ? slopes.data() : nullptr) != 0) {
      return ffi::Error::Internal("the kernels found no memory for one evaluation");
    }
    double total = 0.0;
    for (const double each : log_lik) {
      total += weight * each;
    }
    values->typed_data()[i] = total;
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(gptbayes_log_likelihood_ffi, log_likelihood,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Attr<ffi::Span<const int64_t>>("sizes")
                                  .Attr<ffi::Span<const int64_t>>("lengths")
                                  .Attr<double>("weight")
                                  .Ret<ffi::Buffer<ffi::F64>>()
                                  .Ret<ffi::Buffer<ffi::F64>>());
