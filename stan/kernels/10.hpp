#define GPTBAYES_STAGE 10
#include "gpt_log_likelihood.hpp"
