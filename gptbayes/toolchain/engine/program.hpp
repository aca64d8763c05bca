// What every Stan program includes: the header that makefile precompiles.
#include <stan/model/model_header.hpp>
