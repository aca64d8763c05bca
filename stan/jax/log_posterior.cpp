// The log posterior by the kernels as a function of XLA's foreign function interface, for JAX.

#include <algorithm>
#include <cstdint>
#include <numeric>
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

/// Calls `f(i, j)` for all elements of a matrix, some rows and columns at a time.
template <typename F>
void in_blocks(std::int64_t rows, std::int64_t columns, const F& f) {
  for (std::int64_t r = 0; r < rows; r += BLOCK) {
    for (std::int64_t c = 0; c < columns; c += BLOCK) {
      for (std::int64_t i = r; i < std::min(r + BLOCK, rows); ++i) {
        for (std::int64_t j = c; j < std::min(c + BLOCK, columns); ++j) {
          f(i, j);
        }
      }
    }
  }
}

/// From a matrix by rows to the same by columns. Returns the sum of squared differences from `mean`.
double transpose(double* to, const double* from, const Place& p, double mean) {
  double squares[BLOCK] = {};  // which do not wait for each other
  in_blocks(p.rows, p.columns, [&](std::int64_t i, std::int64_t j) {
    const double value = from[i * p.columns + j];
    to[j * p.rows + i] = value;
    squares[j % BLOCK] += (value - mean) * (value - mean);
  });
  return std::accumulate(squares, squares + BLOCK, 0.0);
}

/// From slopes by columns, and the prior, to the gradient by rows.
void transpose_back(double* to, const double* slope, const double* point, const Place& p,
                    double mean, double precision) {
  in_blocks(p.rows, p.columns, [&](std::int64_t i, std::int64_t j) {
    const std::int64_t at = i * p.columns + j;
    to[at] = slope[j * p.rows + i] + (mean - point[at]) * precision;
  });
}

/// The places of all arguments, and where each begins in the order of the kernels.
struct Order {
  std::vector<Place> places;
  std::vector<std::int64_t> starts;
  std::int64_t n_weights = 0;

  explicit Order(ffi::Span<const std::int64_t> numbers) {
    for (std::size_t k = 0; k + 3 < numbers.size(); k += 4) {
      places.push_back({numbers[k], numbers[k + 1], numbers[k + 2], numbers[k + 3]});
      starts.push_back(n_weights);
      n_weights += places.back().size();
    }
  }

  /// Calls `f(k, place, from, to)` for all matrices of all arguments: k is the argument, `from` and
  /// `to` say where the matrix begins in a point and in the order of the kernels.
  template <typename F>
  void for_each_matrix(const F& f) const {
    for (std::size_t k = 0; k < places.size(); ++k) {
      for (std::int64_t item = 0; item < places[k].items; ++item) {
        const std::int64_t at = item * places[k].rows * places[k].columns;
        f(k, places[k], places[k].start + at, starts[k] + at);
      }
    }
  }
};

}  // namespace

// Log posterior of every point, up to a constant, and its gradient.
//
// points: (n, number of weights); leading dims are free. x, y: B T tokens, from 0.
// masks: all masks, one after the other. sizes: as gptbayes_sizes.
// numbers: of each argument, those of its `Place`; for a mask its length and three zeros.
// priors: of each argument, mean and precision. weight: of the log likelihood.
ffi::Error log_posterior(ffi::Buffer<ffi::F64> points, ffi::Buffer<ffi::S32> x,
                         ffi::Buffer<ffi::S32> y, ffi::Buffer<ffi::F64> masks,
                         ffi::Span<const std::int64_t> sizes,
                         ffi::Span<const std::int64_t> numbers, ffi::Span<const double> priors,
                         double weight, ffi::ResultBuffer<ffi::F64> values,
                         ffi::ResultBuffer<ffi::F64> gradients) {
  const gptbayes_sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]),
                         int(sizes[4]), int(sizes[5]), int(sizes[6]), int(sizes[7])};
  const Order order(numbers);
  const std::int64_t n_tokens = std::int64_t(s.B) * s.T;
  const bool with_gradient = gradients->element_count() == points.element_count();
  const std::vector<double> weights(n_tokens, weight);
  std::vector<double> log_lik(n_tokens);
  thread_local std::vector<double> row, slope;  // kept: pages of new memory take longer to get
  row.resize(order.n_weights);
  slope.resize(order.n_weights);
  std::vector<const double*> arguments;
  std::vector<double*> slopes;
  const double* mask = masks.typed_data();
  for (std::size_t k = 0; k < order.places.size(); ++k) {
    const bool is_mask = order.places[k].items == 0;
    arguments.push_back(is_mask ? mask : row.data() + order.starts[k]);
    slopes.push_back(is_mask ? nullptr : slope.data() + order.starts[k]);
    mask += is_mask ? order.places[k].start : 0;
  }
  const std::int64_t n = points.element_count() / order.n_weights;
  for (std::int64_t i = 0; i < n; ++i) {
    const double* point = points.typed_data() + i * order.n_weights;
    double log_prior = 0.0;
    order.for_each_matrix([&](std::size_t k, const Place& p, std::int64_t from, std::int64_t to) {
      log_prior -= 0.5 * priors[2 * k + 1]
                   * transpose(row.data() + to, point + from, p, priors[2 * k]);
    });
    if (with_gradient) {
      std::fill(slope.begin(), slope.end(), 0.0);  // the kernels add to it
    }
    if (gptbayes_log_likelihood(&s, x.typed_data(), y.typed_data(), arguments.data(),
                                weights.data(), log_lik.data(),
                                with_gradient ? slopes.data() : nullptr) != 0) {
      return ffi::Error::Internal("the kernels found no memory for one evaluation");
    }
    values->typed_data()[i]
        = weight * std::accumulate(log_lik.begin(), log_lik.end(), 0.0) + log_prior;
    if (with_gradient) {
      double* gradient = gradients->typed_data() + i * order.n_weights;
      order.for_each_matrix([&](std::size_t k, const Place& p, std::int64_t at, std::int64_t from) {
        transpose_back(gradient + at, slope.data() + from, point + at, p, priors[2 * k],
                       priors[2 * k + 1]);
      });
    }
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
                                  .Attr<ffi::Span<const int64_t>>("places")
                                  .Attr<ffi::Span<const double>>("priors")
                                  .Attr<double>("weight")
                                  .Ret<ffi::Buffer<ffi::F64>>()
                                  .Ret<ffi::Buffer<ffi::F64>>());
