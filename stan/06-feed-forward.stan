// Components of the model, in the order of the forward pass:
// - embedding of each token
// - embedding of each position
// - causal self-attention, several heads
// - feed-forward layer, n_embed hidden units
// - linear head: the logits of the next token

functions {
  #include embedding.stanfunctions
  #include position.stanfunctions
  #include attention.stanfunctions
  #include multi_head_attention.stanfunctions
  #include linear.stanfunctions
  #include feed_forward.stanfunctions
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * The forward pass.
   *
   * @param x tokens, B sequences of length T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x,
                    array[] vector token_embedding,
                    array[] vector position_embedding,
                    array[] matrix key,
                    array[] matrix query,
                    array[] matrix value,
                    matrix feed_forward_multiplier,
                    vector feed_forward_offset,
                    matrix lm_head_multiplier,
                    vector lm_head_offset) {
    int T = size(x[1]);
    int C = size(token_embedding[1]);
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    stream += embed_positions(x, position_embedding);  // (B T, C)
    stream = multi_head_attention(stream, T, key, query, value);
    stream = feed_forward(stream, feed_forward_multiplier,
                          feed_forward_offset);
    return linear(stream, lm_head_multiplier, lm_head_offset);  // (B T, V)
  }
}
data {
  int<lower=1> vocab_size;  // V, number of distinct characters
  int<lower=1> block_size;  // T, length of a sequence
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // C, dimension of the embeddings
  int<lower=1> n_head;  // H, number of attention heads
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // targets

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> position_embedding_scale;  // prior sd
  real<lower=0> attention_scale;  // prior sd of key, query and value
  real<lower=0> feed_forward_scale;  // prior sd
  real<lower=0> lm_head_scale;  // prior sd
  real<lower=0> offset_scale;  // prior sd of all offsets
  real<lower=0> likelihood_weight;  // 1 for the posterior, 0 for the prior

  int<lower=1> prompt_size;  // length of the prompt
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;  // tokens
  int<lower=0> n_new_tokens;  // number of tokens to generate
}
transformed data {
  int head_size = n_embed %/% n_head;  // h, dimension of a head
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // one per character
  array[block_size] vector[n_embed] position_embedding;  // one per position
  array[n_head] matrix[n_embed, head_size] key;  // attention keys
  array[n_head] matrix[n_embed, head_size] query;  // attention queries
  array[n_head] matrix[n_embed, head_size] value;  // attention values
  matrix[n_embed, n_embed] feed_forward_multiplier;  // hidden units
  vector[n_embed] feed_forward_offset;  // hidden units
  matrix[vocab_size, n_embed] lm_head_multiplier;  // linear head
  vector[vocab_size] lm_head_offset;  // linear head
}
transformed parameters {
  matrix[batch_size, block_size] log_lik;  // nats, one per target
  profile("likelihood") {
    log_lik = token_log_likelihood(y, gpt_logits(
      x,
      token_embedding,
      position_embedding,
      key, query, value,
      feed_forward_multiplier, feed_forward_offset,
      lm_head_multiplier, lm_head_offset));
  }
}
model {
  for (v in 1:vocab_size) {
    token_embedding[v] ~ normal(0, token_embedding_scale);
  }
  for (t in 1:block_size) {
    position_embedding[t] ~ normal(0, position_embedding_scale);
  }
  for (head in 1:n_head) {
    to_vector(key[head]) ~ normal(0, attention_scale);
    to_vector(query[head]) ~ normal(0, attention_scale);
    to_vector(value[head]) ~ normal(0, attention_scale);
  }
  to_vector(feed_forward_multiplier) ~ normal(0, feed_forward_scale);
  feed_forward_offset ~ normal(0, offset_scale);
  to_vector(lm_head_multiplier) ~ normal(0, lm_head_scale);
  lm_head_offset ~ normal(0, offset_scale);

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
        token_embedding,
        position_embedding,
        key, query, value,
        feed_forward_multiplier, feed_forward_offset,
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
