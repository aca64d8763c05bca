// The flags a model was compiled with. A file of its own: it is compiled for every combination of
// flags, the rest of the engine is not.

#include <ostream>

namespace engine {

void print_flags(std::ostream& out) {
  out << "STAN_THREADS="
#ifdef STAN_THREADS
      << "true\n"
#else
      << "false\n"
#endif
      << "STAN_MPI=false\n"
      << "STAN_OPENCL=false\n"
      << "STAN_NO_RANGE_CHECKS="
#ifdef STAN_NO_RANGE_CHECKS
      << "true\n"
#else
      << "false\n"
#endif
      << "STAN_CPP_OPTIMS="
#ifdef STAN_CPP_OPTIMS
      << "true\n";
#else
      << "false\n";
#endif
}

}  // namespace engine
