// The likelihood of stage 02 with any weights, and with arguments of the wrong size.
functions {
  #include 02.stanfunctions
}
data {
  int vocab_size;
  int block_size;
  int batch_size;
  int n_embed;
  array[batch_size, block_size] int x;
  array[batch_size, block_size] int y;
  matrix[batch_size, block_size] weights;  // of the tokens
  int rows_left_out;  // of lm_head_multiplier
  int items_left_out;  // of token_embedding
  int sequences_left_out;  // of y
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;
  matrix[vocab_size, n_embed] lm_head_multiplier;
  vector[vocab_size] lm_head_offset;
}
model {
  target += sum(weights .* gpt_log_likelihood(
    y[1:(batch_size - sequences_left_out)], x,
    token_embedding[1:(vocab_size - items_left_out)],
    lm_head_multiplier[1:(vocab_size - rows_left_out)], lm_head_offset));
}
