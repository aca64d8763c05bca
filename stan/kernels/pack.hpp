// A pack holds the same number of several sequences in one vector register.
//
// The matrices of a small GPT are small, 8 by 8 or 32 by 8, but many sequences pass through them.
// So a register holds one number of each of PACK_SIZE sequences, and the code of a single sequence,
// with Pack in place of double, is the code of all of them. Nothing is shuffled or padded, and
// products are fast for matrices of any size.

#ifndef GPTBAYES_PACK_HPP
#define GPTBAYES_PACK_HPP

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

// Sums stay in registers only if the compiler unrolls the loops over them first.
#define UNROLL _Pragma("GCC unroll 8")

namespace gptbayes {

#if defined(__AVX512F__)
constexpr int PACK_SIZE = 8;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 4;  // 24 sums in 32 registers
#elif defined(__AVX__)
constexpr int PACK_SIZE = 4;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 2;  // 12 sums in 16 registers
#else
constexpr int PACK_SIZE = 2;
constexpr int BLOCK_ROWS = 6, BLOCK_COLUMNS = 2;
#endif

typedef double Pack __attribute__((vector_size(8 * PACK_SIZE)));
typedef std::uint64_t Bits __attribute__((vector_size(8 * PACK_SIZE)));

inline Pack all(double value) { return value - Pack{}; }

inline Pack larger(Pack a, Pack b) { return a > b ? a : b; }

inline double sum(Pack a) {
  double part[PACK_SIZE];
  std::memcpy(part, &a, sizeof a);
  double total = part[0];
  for (int lane = 1; lane < PACK_SIZE; ++lane) {
    total += part[lane];
  }
  return total;
}

/// The sum of each of COUNT packs. Four at a time take half as long as one by one.
template <int COUNT>
inline void sums_of(double* total, const Pack* a) {
#if defined(__AVX512F__) && !defined(__clang__)  // clang has no __builtin_shuffle
  if constexpr (COUNT == 4) {
    const auto pairs = [](Pack p, Pack q) {  // p0 + p1, q0 + q1, p2 + p3, q2 + q3, ...
      return __builtin_shuffle(p, q, (Bits){0, 8, 2, 10, 4, 12, 6, 14})
             + __builtin_shuffle(p, q, (Bits){1, 9, 3, 11, 5, 13, 7, 15});
    };
    const Pack p = pairs(a[0], a[1]), q = pairs(a[2], a[3]);
    double half[PACK_SIZE];  // the sums of the lower and of the upper half of each pack
    const Pack halves = __builtin_shuffle(p, q, (Bits){0, 1, 8, 9, 4, 5, 12, 13})
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

/// The exponential of numbers that are not positive, with a relative error of a few 1e-16. It is 0
/// below -708, where the exact value is less than 1e-307, and NaN for NaN.
///
/// exp(x) = 2^k exp(r) with k whole and |r| <= log(2) / 2, where Taylor's series to r^13 is exact.
inline Pack exp_of_nonpositive(Pack x) {
  constexpr double log2e = 1.4426950408889634074;
  constexpr double log2_high = 6.93147180369123816490e-01;  // its last 21 bits are 0
  constexpr double log2_low = 1.90821492927058770002e-10;
  constexpr double whole = 6755399441055744.0;  // 1.5 2^52: adding it rounds to whole numbers
  constexpr double inverse_factorial[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800,
                                          1.0 / 3628800,    1.0 / 362880,    1.0 / 40320,
                                          1.0 / 5040,       1.0 / 720,       1.0 / 120,
                                          1.0 / 24,         1.0 / 6,         1.0 / 2,
                                          1.0,              1.0};
  const auto underflow = x < -708.0;
  x = underflow ? all(-708.0) : x;
  const Pack shifted = x * log2e + whole;
  const Pack k = shifted - whole;
  const Pack r = (x - k * log2_high) - k * log2_low;
  Pack series = all(inverse_factorial[0]);
  for (int i = 1; i < 14; ++i) {
    series = series * r + inverse_factorial[i];
  }
  const Bits exponent = (Bits)shifted << 52;  // the low bits of `shifted` are those of k
  const Pack result = (Pack)((Bits)series + exponent);
  return underflow ? Pack{} : result;
}

/// A view of a matrix of doubles with any strides, so that transposing is free.
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
// The products of a linear map and its reverse pass: the output, the derivative with respect to the
// input, and the derivative with respect to the map. Each is computed in blocks whose sums stay in
// registers.

/// out(r, n) = start + sum over k of a(r, k) in(k, n), for R rows and S columns.
template <int R, int S>
inline void product_block(Pack* out, Matrix a, const double* offset, const Pack* in, int inner,
                          int columns, bool add) {
  Pack sums[R][S];
  UNROLL
  for (int r = 0; r < R; ++r) {
    UNROLL
    for (int s = 0; s < S; ++s) {
      sums[r][s] = add ? out[r * columns + s] : offset ? all(offset[r]) : Pack{};
    }
  }
  _Pragma("GCC unroll 4")
  for (int k = 0; k < inner; ++k) {
    UNROLL
    for (int r = 0; r < R; ++r) {
      const Pack factor = all(a(r, k));
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

/// gradient(r, k) += sum over n and lanes of d(r, n) in(k, n), for R rows, one beside the other, and
/// S columns of the gradient.
template <int R, int S>
inline void outer_block(double* gradient, int column_stride, const Pack* d, const Pack* in,
                        int columns) {
  Pack sums[R][S] = {};
  for (int n = 0; n < columns; ++n) {
    UNROLL
    for (int r = 0; r < R; ++r) {
      const Pack factor = d[r * columns + n];
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
      gradient[r + s * column_stride] += total[s];
    }
  }
}

/// Exchange lane i + STRIDE of `a` with lane i of `b`, for every i that has no bit of STRIDE.
template <int STRIDE, int... LANE>
inline void exchange(Pack& a, Pack& b, std::integer_sequence<int, LANE...>) {
  const Pack first = {(LANE & STRIDE ? b[LANE & ~STRIDE] : a[LANE])...};
  const Pack second = {(LANE & STRIDE ? b[LANE] : a[LANE | STRIDE])...};
  a = first;
  b = second;
}

/// Transpose PACK_SIZE packs in place.
template <int STRIDE = 1>
inline void transpose_packs(Pack* a) {
  if constexpr (STRIDE < PACK_SIZE) {
    UNROLL
    for (int i = 0; i < PACK_SIZE; ++i) {
      if (!(i & STRIDE)) {
        exchange<STRIDE>(a[i], a[i + STRIDE], std::make_integer_sequence<int, PACK_SIZE>());
      }
    }
    transpose_packs<2 * STRIDE>(a);
  }
}

/// to[n, lane][r] has the numbers of rows r PACK_SIZE to (r + 1) PACK_SIZE - 1, for R such packs.
template <int R>
inline void transpose(Pack* to, const Pack* from, int columns) {
  for (int n = 0; n < columns; ++n) {
    for (int r = 0; r < R; ++r) {
      Pack rows[PACK_SIZE];
      UNROLL
      for (int i = 0; i < PACK_SIZE; ++i) {
        rows[i] = from[(r * PACK_SIZE + i) * columns + n];
      }
      transpose_packs(rows);
      UNROLL
      for (int lane = 0; lane < PACK_SIZE; ++lane) {
        to[(n * PACK_SIZE + lane) * R + r] = rows[lane];
      }
    }
  }
}

/// gradient(r, k) += sum over n and lanes of d(r, n) in(k, n), for R packs of rows and S columns of
/// the gradient, from a d that is transposed.
template <int R, int S>
inline void transposed_outer_block(double* gradient, int column_stride, const Pack* d,
                                   const Pack* in, int columns) {
  Pack sums[S][R] = {};
  for (int n = 0; n < columns; ++n) {
    for (int lane = 0; lane < PACK_SIZE; ++lane, d += R) {
      UNROLL
      for (int s = 0; s < S; ++s) {
        const Pack factor = all(in[s * columns + n][lane]);
        UNROLL
        for (int r = 0; r < R; ++r) {
          sums[s][r] += factor * d[r];
        }
      }
    }
  }
  UNROLL
  for (int s = 0; s < S; ++s) {
    UNROLL
    for (int r = 0; r < R; ++r) {
      double* place = gradient + s * column_stride + r * PACK_SIZE;
      Pack total;
      std::memcpy(&total, place, sizeof total);
      total += sums[s][r];
      std::memcpy(place, &total, sizeof total);
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
inline void product(Pack* out, Matrix a, const double* offset, const Pack* in, int rows,
                    int inner, int columns, bool add = false) {
  in_blocks<BLOCK_ROWS>(rows, [&](int r, auto R) {
    in_blocks<BLOCK_COLUMNS>(columns, [&](int s, auto S) {
      product_block<R.value, S.value>(out + r * columns + s,
                                      {&a(r, 0), a.row_stride, a.column_stride},
                                      offset ? offset + r : nullptr, in + s, inner, columns, add);
    });
  });
}

/// The outer product with a register for each column of d and `in`, whose lanes are summed at last.
inline void outer_product_by_lanes(double* gradient, int column_stride, const Pack* d,
                                   const Pack* in, int rows, int inner, int columns) {
  in_blocks<BLOCK_COLUMNS>(inner, [&](int k, auto S) {
    in_blocks<BLOCK_ROWS>(rows, [&](int r, auto R) {
      outer_block<R.value, S.value>(gradient + r + k * column_stride, column_stride,
                                    d + r * columns, in + k * columns, columns);
    });
  });
}

/// The outer product with a register for PACK_SIZE rows of the gradient, of which there is a
/// multiple of PACK_SIZE, one beside the other. No lanes are summed, but d is transposed.
inline void outer_product_by_rows(double* gradient, int column_stride, const Pack* d,
                                  const Pack* in, int rows, int inner, int columns, Pack* work) {
  in_blocks<BLOCK_COLUMNS>(rows / PACK_SIZE, [&](int pack, auto R) {
    transpose<R.value>(work, d + pack * PACK_SIZE * columns, columns);
    in_blocks<BLOCK_ROWS>(inner, [&](int k, auto S) {
      transposed_outer_block<R.value, S.value>(gradient + pack * PACK_SIZE + k * column_stride,
                                               column_stride, work, in + k * columns, columns);
    });
  });
}

/// gradient += d in', summed over lanes. The strides are those of the map's Matrix, one of them 1.
///
/// @param work space for BLOCK_COLUMNS * PACK_SIZE rows
inline void outer_product(double* gradient, int row_stride, int column_stride, const Pack* d,
                          const Pack* in, int rows, int inner, int columns, Pack* work) {
  if (row_stride != 1) {  // the transposed gradient is in d'
    std::swap(row_stride, column_stride);
    std::swap(d, in);
    std::swap(rows, inner);
  }
  // Sums over lanes cost the more the fewer columns there are, and transposing costs the more the
  // fewer products each transposed number is a factor of.
  const int by_rows = inner > columns ? rows - rows % PACK_SIZE : 0;
  outer_product_by_rows(gradient, column_stride, d, in, by_rows, inner, columns, work);
  outer_product_by_lanes(gradient + by_rows, column_stride, d + by_rows * columns, in,
                         rows - by_rows, inner, columns);
}

/// gradient(r) += sum of row r and over lanes.
inline void row_sums(double* gradient, const Pack* d, int rows, int columns) {
  for (int r = 0; r < rows; ++r) {
    Pack total = {};
    for (int n = 0; n < columns; ++n) {
      total += d[r * columns + n];
    }
    gradient[r] += sum(total);
  }
}

}  // namespace gptbayes

#endif
