#define GPTBAYES_STAGE 3
#include "gpt_log_likelihood.hpp"
