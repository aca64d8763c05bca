// Bigram model with a log-gamma prior. Each row of next-token probabilities
// has a Dirichlet prior and a Dirichlet posterior, known in closed form.
//
// Components of the model, in the order of the forward pass:
// - embedding of each token: the logits of the next token

functions {
  #include embedding.stanfunctions
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * The forward pass.
   *
   * @param x tokens, B sequences of length T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x,
                    array[] vector token_embedding) {
    return embed_tokens(x, token_embedding);  // (B T, V)
  }
}
data {
  int<lower=1> vocab_size;  // V, number of distinct characters
  int<lower=1> block_size;  // T, length of a sequence
  int<lower=1> batch_size;  // B, number of sequences
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // targets

  real<lower=0> concentration;  // shape of the gamma prior of exp(logit)
  real<lower=0> likelihood_weight;  // 1 for the posterior, 0 for the prior

  int<lower=1> prompt_size;  // length of the prompt
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;  // tokens
  int<lower=0> n_new_tokens;  // number of tokens to generate
}
parameters {
  array[vocab_size] vector[vocab_size] token_embedding;  // next-token logits
}
transformed parameters {
  matrix[batch_size, block_size] log_lik;  // nats, one per target
  profile("likelihood") {
    log_lik = token_log_likelihood(y, gpt_logits(
      x,
      token_embedding));
  }
}
model {
  for (v in 1:vocab_size) {
    // density of the log of a gamma variable, with its Jacobian exp(theta)
    target += sum(concentration * token_embedding[v]
                  - exp(token_embedding[v]));
  }

  target += likelihood_weight * sum(to_vector(log_lik'));
}
generated quantities {
  array[n_new_tokens] int new_tokens;  // the prompt's continuation
  {
    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size),
        token_embedding));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
