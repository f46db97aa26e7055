"""The paper's equations as stateless functions of tensors, one place each."""
