// The kernels' log likelihood as a function of XLA's foreign function interface, for JAX.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gpt.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr std::int64_t BLOCK = 8;

/// Where an argument is in a point: some matrices by rows, which the kernels have by columns.
struct Place {
  std::int64_t start, items, rows, columns;

  std::int64_t size() const { return items * rows * columns; }
};

/// From one matrix by rows to the same by columns.
void transpose(double* to, const double* from, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; r += BLOCK) {
    for (std::int64_t c = 0; c < columns; c += BLOCK) {
      for (std::int64_t j = c; j < std::min(c + BLOCK, columns); ++j) {
        for (std::int64_t i = r; i < std::min(r + BLOCK, rows); ++i) {
          to[j * rows + i] = from[i * columns + j];
        }
      }
    }
  }
}

}  // namespace

// Weighted log likelihood of every point and its gradient.
//
// points: (n, number of weights); leading dims are free. x, y: B T tokens, from 0.
// masks: all masks, one after the other. sizes: as gptbayes_sizes.
// places: of each argument, four numbers; for a mask its size and three zeros.
ffi::Error log_likelihood(ffi::Buffer<ffi::F64> points, ffi::Buffer<ffi::S32> x,
                          ffi::Buffer<ffi::S32> y, ffi::Buffer<ffi::F64> masks,
                          ffi::Span<const int64_t> sizes, ffi::Span<const int64_t> places,
                          double weight, ffi::ResultBuffer<ffi::F64> values,
                          ffi::ResultBuffer<ffi::F64> gradients) {
  const gptbayes_sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]),
                         int(sizes[4]), int(sizes[5]), int(sizes[6]), int(sizes[7])};
  const std::size_t n_arguments = places.size() / 4;
  std::vector<Place> of_argument(n_arguments);
  std::int64_t n_weights = 0;
  for (std::size_t k = 0; k < n_arguments; ++k) {
    of_argument[k] = {places[4 * k], places[4 * k + 1], places[4 * k + 2], places[4 * k + 3]};
    n_weights += of_argument[k].size();
  }
  const std::int64_t n = points.element_count() / n_weights;
  const std::int64_t n_tokens = std::int64_t(s.B) * s.T;
  const bool with_gradient = gradients->element_count() == points.element_count();
  const std::vector<double> weights(n_tokens, weight);
  std::vector<double> log_lik(n_tokens);
  std::vector<const double*> arguments(n_arguments);
  std::vector<double*> slopes(n_arguments);
  thread_local std::vector<double> row, slope;  // kept: pages of new memory take longer to get
  row.resize(n_weights);
  slope.resize(n_weights);
  for (std::int64_t i = 0; i < n; ++i) {
    const double* point = points.typed_data() + i * n_weights;
    const double* mask = masks.typed_data();
    if (with_gradient) {
      std::fill(slope.begin(), slope.end(), 0.0);  // the kernels add to it
    }
    std::int64_t next = 0;
    for (std::size_t k = 0; k < n_arguments; ++k) {
      const Place& p = of_argument[k];
      slopes[k] = nullptr;
      if (p.items == 0) {
        arguments[k] = mask;
        mask += p.start;
        continue;
      }
      for (std::int64_t item = 0; item < p.items; ++item) {
        const std::int64_t at = item * p.rows * p.columns;
        transpose(row.data() + next + at, point + p.start + at, p.rows, p.columns);
      }
      arguments[k] = row.data() + next;
      slopes[k] = slope.data() + next;
      next += p.size();
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
    if (with_gradient) {
      double* gradient = gradients->typed_data() + i * n_weights;
      for (std::size_t k = 0; k < n_arguments; ++k) {
        const Place& p = of_argument[k];
        for (std::int64_t item = 0; item < p.items; ++item) {
          const std::int64_t at = item * p.rows * p.columns;
          transpose(gradient + p.start + at, slopes[k] + at, p.columns, p.rows);
        }
      }
    }
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
                                  .Attr<ffi::Span<const int64_t>>("places")
                                  .Attr<double>("weight")
                                  .Ret<ffi::Buffer<ffi::F64>>()
                                  .Ret<ffi::Buffer<ffi::F64>>());
