#define GPTBAYES_STAGE 5
#include "gpt_log_likelihood.hpp"
