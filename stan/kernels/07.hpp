#define GPTBAYES_STAGE 7
#include "gpt_log_likelihood.hpp"
