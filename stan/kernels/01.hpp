#define GPTBAYES_STAGE 1
#include "gpt_log_likelihood.hpp"
