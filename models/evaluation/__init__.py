"""How good is a GAN? Figures with their floors and chance levels, and the pictures to look at (`llm-gan evaluate`)."""
