// Several sequences at once: one number of each in a vector register.
//
// What is small in a small GPT is every matrix: 8 by 8, 32 by 8. What is large is the number of
// sequences that go through them. So a register holds the same number of LANES sequences, and the
// code of a single sequence, with Lanes in place of double, is the code of all of them: nothing is
// shuffled or padded, and a product keeps the core busy however small its matrix is.

#ifndef GPTBAYES_LANES_HPP
#define GPTBAYES_LANES_HPP

#include <cmath>
#include <cstdint>
#include <cstring>

// Sums stay in registers only where the loops over them are unrolled, before anything else is done.
#define UNROLL _Pragma("GCC unroll 8")

namespace gptbayes {

#if defined(__AVX512F__)
constexpr int LANES = 8;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 4;  // 24 sums in 32 registers
#elif defined(__AVX__)
constexpr int LANES = 4;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 2;  // 12 sums in 16 registers
#else
constexpr int LANES = 2;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 2;
#endif

typedef double Lanes __attribute__((vector_size(8 * LANES)));
typedef std::uint64_t Bits __attribute__((vector_size(8 * LANES)));

inline Lanes all(double value) { return value - Lanes{}; }

inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

inline double sum(Lanes a) {
  double part[LANES];
  std::memcpy(part, &a, sizeof a);
  double total = part[0];
  for (int lane = 1; lane < LANES; ++lane) {
    total += part[lane];
  }
  return total;
}

/// The sums of COUNT registers: four at a time, which takes half as long as one by one.
template <int COUNT>
inline void sums_of(double* total, const Lanes* a) {
#if defined(__AVX512F__) && !defined(__clang__)  // which has no __builtin_shuffle
  if constexpr (COUNT == 4) {
    const auto pairs = [](Lanes p, Lanes q) {  // p0 + p1, q0 + q1, p2 + p3, q2 + q3, ...
      return __builtin_shuffle(p, q, (Bits){0, 8, 2, 10, 4, 12, 6, 14})
             + __builtin_shuffle(p, q, (Bits){1, 9, 3, 11, 5, 13, 7, 15});
    };
    const Lanes p = pairs(a[0], a[1]), q = pairs(a[2], a[3]);
    double half[LANES];  // of each register the sums of its lower and of its upper half
    const Lanes halves = __builtin_shuffle(p, q, (Bits){0, 1, 8, 9, 4, 5, 12, 13})
                         + __builtin_shuffle(p, q, (Bits){2, 3, 10, 11, 6, 7, 14, 15});
    std::memcpy(half, &halves, sizeof half);
    for (int i = 0; i < 4; ++i) {
      total[i] = half[i] + half[4 + i];
    }
    return;
  }
#endif
  for (int i = 0; i < COUNT; ++i) {
    total[i] = sum(a[i]);
  }
}

/// The exponential of numbers that are not positive, to the last digit but one; 0 below -708,
/// where it is less than 1e-307, and NaN of NaN.
///
/// exp(x) = 2^k exp(r) with k whole and |r| <= log(2) / 2, where Taylor's series to r^13 is exact.
inline Lanes exp_of_nonpositive(Lanes x) {
  constexpr double log2e = 1.4426950408889634074;
  constexpr double log2_high = 6.93147180369123816490e-01;  // its last 21 bits are 0
  constexpr double log2_low = 1.90821492927058770002e-10;
  constexpr double whole = 6755399441055744.0;  // 1.5 2^52: adding it rounds to whole numbers
  constexpr double inverse_factorial[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800,
                                          1.0 / 3628800,    1.0 / 362880,    1.0 / 40320,
                                          1.0 / 5040,       1.0 / 720,       1.0 / 120,
                                          1.0 / 24,         1.0 / 6,         1.0 / 2,
                                          1.0,              1.0};
  const auto lost = x < -708.0;
  x = lost ? all(-708.0) : x;
  const Lanes shifted = x * log2e + whole;
  const Lanes k = shifted - whole;
  const Lanes r = (x - k * log2_high) - k * log2_low;
  Lanes series = all(inverse_factorial[0]);
  for (int i = 1; i < 14; ++i) {
    series = series * r + inverse_factorial[i];
  }
  const Bits exponent = (Bits)shifted << 52;  // the low bits of `shifted` are those of k
  const Lanes result = (Lanes)((Bits)series + exponent);
  return lost ? Lanes{} : result;
}

/// A matrix of doubles, wherever its elements are; transposing it costs nothing.
struct Matrix {
  const double* elements;
  int row_stride, column_stride;

  const double& operator()(int row, int column) const {
    return elements[row * row_stride + column * column_stride];
  }
  Matrix transposed() const { return {elements, column_stride, row_stride}; }
};

// ---- products ----
//
// The three products of a linear map and of its reverse pass: what comes out, what goes back to
// the input, and what goes to the map. Each is cut into blocks whose sums stay in registers.

/// out(r, n) = start + sum over k of a(r, k) in(k, n), for R rows and S columns.
template <int R, int S>
inline void product_block(Lanes* out, Matrix a, const double* offset, const Lanes* in, int inner,
                          int columns, bool add) {
  Lanes sums[R][S];
  UNROLL
  for (int r = 0; r < R; ++r) {
    UNROLL
    for (int s = 0; s < S; ++s) {
      sums[r][s] = add ? out[r * columns + s] : offset ? all(offset[r]) : Lanes{};
    }
  }
  for (int k = 0; k < inner; ++k) {
    UNROLL
    for (int r = 0; r < R; ++r) {
      const Lanes factor = all(a(r, k));
      UNROLL
      for (int s = 0; s < S; ++s) {
        sums[r][s] += factor * in[k * columns + s];
      }
    }
  }
  UNROLL
  for (int r = 0; r < R; ++r) {
    UNROLL
    for (int s = 0; s < S; ++s) {
      out[r * columns + s] = sums[r][s];
    }
  }
}

/// gradient(r, k) += sum over n of d(r, n) in(k, n), for R rows and S columns of the gradient.
template <int R, int S>
inline void outer_block(double* gradient, int row_stride, int column_stride, const Lanes* d,
                        const Lanes* in, int columns) {
  Lanes sums[R][S] = {};
  for (int n = 0; n < columns; ++n) {
    UNROLL
    for (int r = 0; r < R; ++r) {
      const Lanes factor = d[r * columns + n];
      UNROLL
      for (int s = 0; s < S; ++s) {
        sums[r][s] += factor * in[s * columns + n];
      }
    }
  }
  UNROLL
  for (int r = 0; r < R; ++r) {
    double total[S];
    sums_of<S>(total, sums[r]);
    for (int s = 0; s < S; ++s) {
      gradient[r * row_stride + s * column_stride] += total[s];
    }
  }
}

/// Call `visit(first, size)` with size an integral_constant, for blocks of at most LARGEST that
/// cover `count` and differ by one at most.
template <int SIZE>
struct Size {
  static constexpr int value = SIZE;
};

template <int LARGEST, typename Visit>
inline void in_size(int size, Visit&& visit) {
  if constexpr (LARGEST > 0) {
    size == LARGEST ? visit(Size<LARGEST>()) : in_size<LARGEST - 1>(size, visit);
  }
}

template <int LARGEST, typename Visit>
inline void in_blocks(int count, Visit&& visit) {
  const int blocks = (count + LARGEST - 1) / LARGEST;
  for (int block = 0; block < blocks; ++block) {
    const int first = block * count / blocks;
    const int last = (block + 1) * count / blocks;
    in_size<LARGEST>(last - first, [&](auto size) { visit(first, size); });
  }
}

/// out = a in (+ offset), or out += a in.
///
/// @param out one row per output, (rows, columns)
/// @param in one row per input, (inner, columns)
inline void product(Lanes* out, Matrix a, const double* offset, const Lanes* in, int rows,
                    int inner, int columns, bool add = false) {
  in_blocks<BLOCK_COLUMNS>(columns, [&](int s, auto S) {
    in_blocks<BLOCK_ROWS>(rows, [&](int r, auto R) {
      product_block<R.value, S.value>(out + r * columns + s,
                                      {&a(r, 0), a.row_stride, a.column_stride},
                                      offset ? offset + r : nullptr, in + s, inner, columns, add);
    });
  });
}

/// gradient += d in', summed over lanes: strides as those of the Matrix it is the gradient of.
inline void outer_product(double* gradient, int row_stride, int column_stride, const Lanes* d,
                          const Lanes* in, int rows, int inner, int columns) {
  in_blocks<BLOCK_COLUMNS>(inner, [&](int k, auto S) {
    in_blocks<BLOCK_ROWS>(rows, [&](int r, auto R) {
      outer_block<R.value, S.value>(gradient + r * row_stride + k * column_stride, row_stride,
                                    column_stride, d + r * columns, in + k * columns, columns);
    });
  });
}

/// gradient(r) += sum of row r and over lanes.
inline void row_sums(double* gradient, const Lanes* d, int rows, int columns) {
  for (int r = 0; r < rows; ++r) {
    Lanes total = {};
    for (int n = 0; n < columns; ++n) {
      total += d[r * columns + n];
    }
    gradient[r] += sum(total);
  }
}

}  // namespace gptbayes

#endif
