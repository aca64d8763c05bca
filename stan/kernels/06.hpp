#define GPTBAYES_STAGE 6
#include "gpt_log_likelihood.hpp"
