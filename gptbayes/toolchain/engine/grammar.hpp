#ifndef ENGINE_GRAMMAR_HPP
#define ENGINE_GRAMMAR_HPP

#include "arguments.hpp"

namespace engine {

/**
 * Every argument there is, with its default, in the order in which headers list them.
 *
 * @param threads default of num_threads
 * @param threaded whether this program was compiled with STAN_THREADS
 */
Argument grammar(int threads, bool threaded);

}  // namespace engine

#endif
