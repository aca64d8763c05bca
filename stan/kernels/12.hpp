#define GPTBAYES_STAGE 12
#include "gpt_log_likelihood.hpp"
