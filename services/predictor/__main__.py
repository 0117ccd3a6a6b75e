from services.predictor.app import main

main()
