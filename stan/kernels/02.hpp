#define GPTBAYES_STAGE 2
#include "gpt_log_likelihood.hpp"
