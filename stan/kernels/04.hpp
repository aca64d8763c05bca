#define GPTBAYES_STAGE 4
#include "gpt_log_likelihood.hpp"
