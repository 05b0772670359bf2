"""Is it right, and what does an entry weigh: certificates, and leave one out."""
