#define GPTBAYES_STAGE 8
#include "gpt_log_likelihood.hpp"
