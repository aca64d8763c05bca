#include "factor.hpp"

inline double twice(const double& x, std::ostream* messages) { return factor * x; }
